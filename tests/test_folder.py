"""Folders, zips and tars of pictures: layouts, splits, remarks, and what is wrong with them."""

import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from flaxvae.data import containers, folder, layouts, pictures, sources
from flaxvae.errors import DataError, UsageError, typed_by
from flaxvae.settings import DataSettings

PARTS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cached(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def picture(seed, size=(6, 5), form="PNG", channels=3):
    shape = size if channels == 1 else (*size, channels)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))
    written = io.BytesIO()
    image.save(written, form)
    return written.getvalue()


def written(path, names, **options):
    """A folder with pictures of these names, or with the contents that are given."""
    files = names if isinstance(names, dict) else dict.fromkeys(names)
    for number, (name, content) in enumerate(files.items()):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = picture(number, **options) if content is None else content
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path, **settings):
    return folder.load(str(path), DataSettings(str(path), **settings))


def parts(data):
    return dict(zip(PARTS, (data.train, data.validation, data.test), strict=True))


def files(data):
    return {name: list(part.files) for name, part in parts(data).items()}


def everything(data):
    return sorted(name for names in files(data).values() for name in names)


def labels(data):
    return {
        file: label
        for part in parts(data).values()
        if part.y is not None
        for file, label in zip(part.files, part.y.tolist(), strict=True)
    }


def fails(path, *words, kind=DataError, **settings):
    with pytest.raises(kind) as caught:
        load(path, **settings)
    with typed_by("flaxvae"):
        message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


def numbered(count, start="", ending=".png"):
    return [f"{start}{i:03}{ending}" for i in range(count)]


# ---- layouts


def test_a_flat_folder(tmp_path):
    data = load(written(tmp_path / "photos", numbered(60)))
    assert data.name == "photos" and data.peak == 255 and data.classes is None
    assert data.train.x.shape[1:] == (6, 5, 3) and isinstance(data.train.x, np.memmap)
    found = files(data)
    assert everything(data) == numbered(60) and min(map(len, found.values())) >= 1
    for part in parts(data).values():
        for x, name in zip(part.x, part.files, strict=True):
            np.testing.assert_array_equal(x, np.asarray(Image.open(tmp_path / "photos" / name)))
    assert any("5 % for validation and 5 % for test by file name" in note for note in data.notes)


def test_class_folders(tmp_path):
    names = numbered(30, "dog/") + numbered(30, "cat/2024/")
    data = load(written(tmp_path, names))
    assert data.names == ("cat", "dog") and data.classes == 2
    assert labels(data) == {name: name[:3] for name in names}
    assert "2 classes: cat, dog" in data.notes


def test_one_class_is_none(tmp_path):
    for there in (
        written(tmp_path / "a", numbered(9, "cats/")),
        written(tmp_path / "b", numbered(9, "train/good/") + numbered(3, "test/good/")),
    ):
        data = load(there)
        assert data.classes is None and data.train.y is None and data.unlabelled == ""


def test_class_folders_that_are_numbers(tmp_path):
    data = load(written(tmp_path, [n for i in range(11) for n in numbered(4, f"{i}/")]))
    assert data.names is None and data.classes == 11
    assert labels(data) == {name: int(name.split("/")[0]) for name in labels(data)}


@pytest.mark.parametrize(
    "spelt", [("train", "val", "test"), ("Training", "dev", "testing"), ("trn", "valid", "eval")]
)
@pytest.mark.parametrize("classes", [("",), ("cat/", "dog/")])
def test_splits_that_are_given(tmp_path, spelt, classes):
    names = [name for part in spelt for of in classes for name in numbered(3, f"{part}/{of}")]
    data = load(written(tmp_path / "a" / "b", names).parent)
    for part, folder_of in zip(PARTS, spelt, strict=True):
        assert files(data)[part] == [f"b/{n}" for n in sorted(names) if n.startswith(folder_of)]
    assert labels(data) == ({f"b/{n}": n.split("/")[1] for n in names} if len(classes) > 1 else {})
    assert not any("by file name" in note for note in data.notes)


def test_what_splits_lack_is_taken_from_training(tmp_path):
    names = numbered(80, "train/") + numbered(5, "test/")
    found = files(load(written(tmp_path / "a", names)))
    assert found["test"] == numbered(5, "test/") and 1 <= len(found["validation"]) < 20
    found = files(load(tmp_path / "a", validation=0.5))
    assert 20 < len(found["validation"]) < 60
    assert files(load(tmp_path / "a", validation=0))["validation"] == []
    names = numbered(80, "train/") + numbered(5, "val/")
    found = files(load(written(tmp_path / "b", names)))
    assert found["validation"] == numbered(5, "val/") and 1 <= len(found["test"]) < 20
    fails(tmp_path / "b", "--validation 0.5 has no effect", kind=UsageError, validation=0.5)
    fails(written(tmp_path / "c", numbered(5, "test/")), "expected some in train/")


def test_anomalies(tmp_path):
    names = numbered(9, "train/good/") + numbered(3, "test/good/") + numbered(3, "test/crack/")
    masks = numbered(3, "ground_truth/crack/")
    data = load(written(tmp_path / "a", [*names, *masks]))
    assert set(labels(data)) == set(names) and data.names == ("crack", "good")
    assert {name for name, label in labels(data).items() if label == "crack"} == set(
        numbered(3, "test/crack/")
    )
    unlabelled = numbered(9, "train/") + numbered(3, "test/good/") + numbered(3, "test/crack/")
    data = load(written(tmp_path / "b", unlabelled))
    assert data.train.y is None and data.classes is None and data.names == ("crack", "good")
    assert data.test.y.tolist() == ["crack"] * 3 + ["good"] * 3
    assert "training pictures have no labels" in data.unlabelled


@pytest.mark.parametrize("archive", ["zip", "tar", "tar.gz", "tgz"])
def test_archives_are_as_their_folder(tmp_path, archive):
    names = numbered(20, "top/cat/") + numbered(20, "top/dog/")
    there = written(tmp_path / "there", [*names, "top/.hidden.png", "__MACOSX/top/._000.png"])
    packed = pack(tmp_path / f"pets.{archive}", there)
    ours, theirs = load(packed), load(there / "top")
    assert ours.name == "pets"
    assert labels(ours) == {f"top/{name}": label for name, label in labels(theirs).items()}
    rows = [
        {name.removeprefix("top/"): x.tobytes() for p in parts(d).values()
         for name, x in zip(p.files, p.x, strict=True)}
        for d in (ours, theirs)
    ]  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 40


def pack(path, there):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(there.rglob("*")):
                archive.write(file, file.relative_to(there).as_posix())
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        archive.add(there, ".")
    return path


TABLES = {
    "labels.csv": "filename,label\n" + "".join(f"{i:03}.png,{'ab'[i % 2]}\n" for i in range(9)),
    "metadata.csv": "id;split;category\n"
    + "".join(f"{i:03};{'train' if i < 6 else 'test'};{'ab'[i % 2]}\n" for i in range(9)),
    "metadata.jsonl": "".join(
        json.dumps({"text": "x", "file_name": f"{i:03}.png", "label": i % 2}) + "\n"
        for i in range(9)
    ),
    "images/labels.csv": "\ufeffpath,class\r\n"
    + "".join(f"{i:03}.png,{'ab'[i % 2]}\r\n" for i in range(9)),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables(tmp_path, table):
    names = numbered(9, "images/")
    data = load(written(tmp_path, {**dict.fromkeys(names), table: TABLES[table]}))
    of = {0: 0, 1: 1} if table.endswith("jsonl") else {0: "a", 1: "b"}
    assert labels(data) == {name: of[i % 2] for i, name in enumerate(names)}
    if "split" in TABLES[table]:
        assert files(data)["test"] == names[6:]


def test_a_table_is_of_the_files_beside_it(tmp_path):
    table = TABLES["labels.csv"]
    names = numbered(9, "train/") + numbered(3, "test/a/") + numbered(3, "test/b/")
    data = load(written(tmp_path, {**dict.fromkeys(names), "train/labels.csv": table}))
    assert (
        len(labels(data)) == 15
        and data.train.y[0] == "a"
        and not any("left out" in note for note in data.notes)
    )


def test_a_class_may_be_called_train(tmp_path):
    names = numbered(9, "train/") + numbered(9, "car/")
    assert load(written(tmp_path / "a", names)).names == ("car", "train")
    data = load(written(tmp_path / "b", [*names, *numbered(9, "test/")]))
    assert files(data)["test"] == numbered(9, "test/") and data.names is None
    assert "beside the splits, left out: 9 files in car" in data.notes


def test_a_table_and_the_files_it_names(tmp_path):
    some = {**dict.fromkeys(numbered(4)), "labels.csv": TABLES["labels.csv"]}
    data = load(written(tmp_path / "a", some))
    absent = "labels.csv names 5 files that are not there, left out: 004.png, 005.png, 006.png, …"
    assert absent in data.notes and len(labels(data)) == 4
    fails(tmp_path / "a", "names 5 files that are not there: 004.png", strict=True)
    none = {**dict.fromkeys(numbered(4, "x")), "labels.csv": TABLES["labels.csv"]}
    fails(written(tmp_path / "b", none), "names 9 files that are not there")
    more = {**dict.fromkeys(numbered(12)), "labels.csv": TABLES["labels.csv"]}
    data = load(written(tmp_path / "c", more))
    assert "3 pictures left out that labels.csv does not name" in data.notes
    columns = {**dict.fromkeys(numbered(4)), "labels.csv": "a,b\n1,2\n"}
    fails(written(tmp_path / "d", columns), "labels.csv has the columns a, b; expected one with")
    (tmp_path / "d" / "labels.csv").unlink()
    (tmp_path / "d" / "labels.csv").symlink_to("nowhere")
    fails(tmp_path / "d", "labels.csv cannot be read (No such file or directory)")
    broken = {**dict.fromkeys(numbered(4)), "metadata.jsonl": '{"file_name": \n'}
    fails(written(tmp_path / "e", broken), "metadata.jsonl cannot be read")


# ---- splits


def test_more_files_move_none(tmp_path):
    names = numbered(300)
    few = files(load(written(tmp_path, names)))
    more = files(load(written(tmp_path, numbered(200, "b") + numbered(100, "0"))))
    for part in PARTS:
        assert set(few[part]) == set(more[part]) & set(names)
    shares = [len(more[part]) / 600 for part in PARTS]
    assert np.abs(np.subtract(shares, (0.90, 0.05, 0.05))).max() < 0.04


def test_places_are_even_and_a_name_s_own():
    found = np.sort([folder.place(f"a/{i}.png") for i in range(4000)])
    assert np.abs(found - np.linspace(0, 1, 4000)).max() < 0.03
    assert folder.place("caf\u00e9.png") == folder.place("cafe\u0301.png")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_part_has_a_picture_if_there_are_enough(tmp_path, count):
    found = files(load(written(tmp_path, numbered(count))))
    assert len(found["train"]) >= 1 and len(found["test"]) == 1
    assert len(found["validation"]) == (count > 2)


def test_training_on_normal_classes_alone(tmp_path):
    names = numbered(40, "fine/") + numbered(10, "cracked/") + numbered(10, "bent/")
    found = load(written(tmp_path / "a", names), normal=("fine",))
    got = files(found)
    assert all(name.startswith("fine/") for name in got["train"] + got["validation"])
    assert {n for n in got["test"] if "fine" not in n} == set(names[40:])
    assert any(n.startswith("fine/") for n in got["test"])
    assert any("20 pictures of other classes for test only" in note for note in found.notes)
    fails(tmp_path / "a", "--normal fin: no such class", "did you mean 'fine'", kind=UsageError,
          normal=("fin",))  # fmt: skip
    given = [f"{part}/{name}" for part in ("train", "test") for name in names]
    got = files(load(written(tmp_path / "b", given), normal=("fine", "bent")))
    assert {n.split("/")[1] for n in got["train"] + got["validation"]} == {"fine", "bent"}
    assert got["test"] == sorted(given[60:])
    flat = written(tmp_path / "c", numbered(9))
    fails(flat, "it has no classes", kind=UsageError, normal=("fine",))


# ---- sizes, and remarks


def test_sizes(tmp_path):
    mixed = {f"{i}.png": picture(i, (8 + i, 20)) for i in range(5)}
    data = load(written(tmp_path, mixed))
    assert data.train.x.shape[1:] == (64, 64, 3)
    note = (
        "pictures of 5 sizes, 8x20 to 12x20, resized to 64x64 (crop), --image-size chooses another"
    )
    assert note in data.notes
    data = load(tmp_path, image_size="24x40", resize="stretch")
    assert data.train.x.shape[1:] == (24, 40, 3) and data.preprocessing.resize == "stretch"
    same = load(written(tmp_path / "same", numbered(5), size=(12, 20)))
    assert same.train.x.shape[1:] == (12, 20, 3) and not any("resized" in n for n in same.notes)
    assert same.preprocessing == pictures.Preprocessing(12, 20, 3, "crop", "white", 255.0)


def test_channels_and_bits_of_all_together(tmp_path):
    grey = {f"g{i}.png": picture(i, channels=1) for i in range(4)}
    assert load(written(tmp_path / "a", grey)).train.x.shape[1:] == (6, 5, 1)
    one = {f"c{i}.png": None for i in range(1)}
    assert load(written(tmp_path / "a", one)).train.x.shape[1:] == (6, 5, 3)
    clear = {f"{i}.png": picture(i, channels=4) for i in range(3)} | grey
    data = load(written(tmp_path / "b", clear), background="black")
    assert "3 pictures with transparency drawn over black" in data.notes
    deep = io.BytesIO()
    Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000).save(deep, "PNG")
    deep = dict.fromkeys(["x.png", "y.png", "z.png"], deep.getvalue())
    data = load(written(tmp_path / "c", deep))
    assert data.peak == 65535 and data.train.x.dtype == np.uint16
    data = load(written(tmp_path / "c", grey))
    assert data.peak == 255 and "3 pictures of 16 bits made 8 bits, as the others are" in data.notes


@pytest.mark.parametrize("odd", [0, 99])
def test_one_picture_that_differs_counts_wherever_it_comes(tmp_path, odd):
    """The first ones tell what all are like, until one says otherwise."""
    names = dict.fromkeys(numbered(200))
    names = {n: picture(i, channels=1) for i, n in enumerate(names)}
    names[f"{odd:03}.png"] = picture(1, (9, 9))
    data = load(written(tmp_path, names))
    assert data.train.x.shape[1:] == (64, 64, 3)
    assert sum(len(part.x) for part in parts(data).values()) == 200


def test_broken_files_are_named_and_left_out(tmp_path):
    wrong = {"a.png": "hello", "b.jpg": picture(1, (60, 60), "JPEG")[:900], "c.gif": "",
             "d.png": picture(1, (1, 1))}  # fmt: skip
    written(tmp_path, {**dict.fromkeys(numbered(50)), **wrong})
    (tmp_path / "\n.png").symlink_to(tmp_path / "nowhere")
    for data in (load(tmp_path), load(tmp_path)):  # decoded, and from the cache
        assert everything(data) == numbered(50)
        note = next(note for note in data.notes if "left out" in note)
        assert note.startswith("5 files left out: ") and note.endswith(", …")
        assert r"'\n.png' (cannot be read (No such file or directory)), a.png (not a pict" in note
    fails(tmp_path, "5 files that cannot be used", "--strict", strict=True)


def test_what_is_no_dataset(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "no pictures in it (it is empty)", ".png")
    fails(written(tmp_path / "texts", {"a.txt": "x", "b.txt": "y"}), "no pictures in it (2 .txt)")
    fails(written(tmp_path / "one", ["a.png"]), "1 picture; expected at least one to train and")
    fails(written(tmp_path / "bad", dict.fromkeys(numbered(9), "x")), "none of its 9 files", "000")
    black = io.BytesIO()
    Image.new("L", (4, 4), 7).save(black, "PNG")
    fails(
        written(tmp_path / "black", dict.fromkeys(numbered(9), black.getvalue())),
        "every pixel",
        "7",
    )
    fails(tmp_path / "emty", "no such file or folder", "did you mean 'empty'")
    fails(tmp_path / "no" / "where", "no such file or folder", f"nor a folder {tmp_path}/no")
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    fails(tmp_path / "a.zip", "a.zip: cannot be read")
    damaged = bytearray(lzma.compress(np.random.default_rng(0).bytes(3000)))
    damaged[1000] ^= 255
    (tmp_path / "a.tar.xz").write_bytes(damaged)
    fails(tmp_path / "a.tar.xz", "a.tar.xz: cannot be read (Corrupt input data)")
    monkeypatch.chdir(tmp_path)
    with typed_by("flaxvae"), pytest.raises(UsageError, match="did you mean 'texts'"):
        sources.load("textss")
    with typed_by("flaxvae"), pytest.raises(DataError, match="did you mean 'texts'"):
        sources.load("./textss")


def test_links_that_lead_around(tmp_path):
    written(tmp_path / "a", numbered(5, "cat/") + numbered(5, "dog/"))
    (tmp_path / "a" / "cat" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    (tmp_path / "a" / "fish").symlink_to(written(tmp_path / "b", numbered(5)))
    data = load(tmp_path / "a")
    assert data.names == ("cat", "dog", "fish")
    found = everything(data)
    assert found == sorted(numbered(5, "cat/") + numbered(5, "dog/") + numbered(5, "fish/"))


# ---- archives that are no friends


def test_an_encrypted_zip(tmp_path):
    path = pack(tmp_path / "a.zip", written(tmp_path / "a", numbered(3)))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag, in the directory
    path.write_bytes(content)
    fails(path, "encrypted; expected a zip without a password")


def test_a_zip_bomb(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02") + 24
    path.write_bytes(content[:at] + (3 * 10**9).to_bytes(4, "little") + content[at + 4 :])
    fails(path, "would expand to 3,000,000,000, as a zip bomb does")
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", bytes(1000))
        archive.filelist *= 5  # five names of the same bytes
    fails(path, "members that overlap")


def test_a_compressed_tar_that_expands_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "FREE", 2**20)
    monkeypatch.setattr(containers, "RATIO", 10)
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 2**23
        archive.addfile(info, io.BytesIO(bytes(2**23)))
    fails(path, "would expand to", "as a zip bomb does")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_lead_out_are_named_and_left_out(tmp_path, kind):
    path = tmp_path / "there" / f"a.{kind}"
    path.parent.mkdir()
    names = ["../up.png", "/abs.png", "a/../../b.png", *numbered(5, "in/")]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for i, name in enumerate(names):
                archive.writestr(name, picture(i))
    else:
        with tarfile.open(path, "w") as archive:
            for i, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(picture(i))
                archive.addfile(info, io.BytesIO(picture(i)))
            link = tarfile.TarInfo("in/link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    data = load(path)
    assert everything(data) == numbered(5, "in/")
    assert any(n.startswith("3 members left out whose names lead out") for n in data.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_damaged_member_is_a_broken_file(tmp_path):
    path = pack(tmp_path / "a.zip", written(tmp_path / "a", numbered(9)))
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT")
    content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    data = load(path)
    assert any(note.startswith("1 file left out: 000.png (") for note in data.notes)


# ---- pictures for a trained model


def test_reading_with_a_run_s_preprocessing(tmp_path):
    names = numbered(6, "train/cat/") + numbered(6, "test/dog/")
    there = written(tmp_path / "a", {**dict.fromkeys(names), "test/dog/bad.png": "x"})
    how = pictures.Preprocessing(9, 7, 1, "fit", "black", 255.0)
    found = folder.read(str(there), how)
    assert found.x.shape == (12, 9, 7, 1) and found.files == sorted(names)
    assert found.y.tolist() == [name.split("/")[1] for name in sorted(names)]
    assert any(note.startswith("1 file left out: test/dog/bad.png") for note in found.notes)
    row = pictures.row((there / found.files[3]).read_bytes(), how)[1]
    np.testing.assert_array_equal(found.x[3], row)
    single = folder.read(str(there / "train/cat/002.png"), how)
    assert single.files == ["002.png"] and single.x.shape == (1, 9, 7, 1)


def test_spellings_are_of_one_split_each():
    spellings = [name for names in layouts.SPLITS.values() for name in names]
    assert len(spellings) == len({*spellings})


# ---- to a trained model


def test_from_a_folder_to_a_trained_model_and_after_a_move(tmp_path, monkeypatch, capsys):
    import flaxvae
    from flaxvae import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flaxvae.api.drawn", lambda *arguments: {})
    written(tmp_path / "pets", numbered(40, "cat/") + numbered(40, "dog/"))
    asked = "--net mlp --widths 16 --latent-dim 2 --epochs 1 --devices 1 --no-cache"
    cli.main(["train", "--dataset", "pets", "--image-size", "8x4", "--run", "run", *asked.split()])
    run = flaxvae.load("run")
    assert run.spec.shape == (8, 4, 3) and run.spec.names == ("cat", "dog")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    how = pictures.Preprocessing.from_json(stored["preprocessing"])
    assert how == pictures.Preprocessing(8, 4, 3, "crop", "white", 255.0)
    assert stored["training"]["batch_size"] == 64  # of fewer pictures than usually in a batch
    assert "batch size 64 for 7" in " ".join(capsys.readouterr().out.replace("_", " ").split())
    test = run.data().test
    assert sorted(test.files) == sorted(n for n in numbered(40, "cat/") + numbered(40, "dog/")
                                        if folder.place(n) < 0.05)  # fmt: skip
    (tmp_path / "pets").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="give its new place with dataset"):
        run.data()
    assert run.data(flaxvae.settings.Place(dataset="moved")).sha256 == stored["data_sha256"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["train", "--dataset", "digits", "--image-size", "8", *asked.split()])
    assert "--image-size 8x8 has no effect with --dataset digits" in capsys.readouterr().err


def test_unlabelled_training_and_labelled_tests_are_prepared(tmp_path):
    from flaxvae.data import pipeline

    names = numbered(9, "train/") + numbered(3, "test/good/") + numbered(3, "test/crack/")
    data = pipeline.prepare(DataSettings(str(written(tmp_path / "a", names)), validation=0))
    assert data.spec.classes is None and data.validation is None
    assert data.test.classes.tolist() == [0] * 3 + [1] * 3
    assert data.test.files == sorted(names[9:])
    names = numbered(9, "a/") + numbered(9, "b/")
    data = pipeline.prepare(DataSettings(str(written(tmp_path / "b", names)), validation=0))
    assert data.validation is None and data.spec.classes == 2 and data.labels_sha256
