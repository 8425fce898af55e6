"""The command line: what it refuses, in one line and without a trace, and what it writes."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxvae
from conftest import TINY
from conftest import said as run
from flaxvae import cli, lookup, zoo
from flaxvae.analysis.anomaly.scores import Settings
from flaxvae.data import idx
from flaxvae.errors import UsageError
from flaxvae.runs.anomaly import Reference
from flaxvae.settings import DataSettings, TrainSettings

PNG = b"\x89PNG\r\n\x1a\n"
FLAGS = {
    "eval": "k samples split images seed",
    "likelihood": "k temperatures chains start fit-steps simulated split images seed",
    "diagnose": "images seed",
    "sample": "n seed temperature out",
    "reconstruct": "images n out",
    "interpolate": "rows steps path animate out",
    "neighbours": "images k n out",
    "traverse": "image label units steps span out",
    "arithmetic": "images attribute having lacking against strength analogy n out",
    "restore": "images mask noise n completions temperatures chains seed prior out",
    "fit-prior": "prior components epochs batch-size learning-rate seed devices",
    "encode": "images out",
    "score": "images scores false-positive-rate normal k fit-steps levels out",
    "probe": "images seed",
    "quality": "half network k seed",
    "disentangle": "images without unordered udr bins seed",
    "figures": "",
    "report": "",
    "export": "to out",
    "verify": "",
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("FLAXVAE_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """The folder of an untrained plain autoencoder that held no images out."""
    path = tmp_path_factory.mktemp("runs") / "ae"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        flaxvae.train(progress=False, model="ae", epochs=0, validation=0, run=str(path), **TINY)
    return path


def listing(*folders):
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


@pytest.fixture
def refused(capsys, tmp_path, trained, autoencoder):
    """Checks that a line is refused as documented; returns what stderr said."""

    def check(line, code=2, *words):
        line = line.format(run=trained, ae=autoencoder)
        before = listing(tmp_path, trained, autoencoder)
        found, _, err = run(line, capsys)
        assert found == code
        assert err.startswith("flaxvae: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert len(err) > len("flaxvae: \n") and "Traceback" not in err
        assert listing(tmp_path, trained, autoencoder) == before
        for word in words:
            assert word in err, err
        return err

    return check


# ---- misuse


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian", ["'trian'", "did you mean 'train'?"]),
        ("--epochs 3", ["--epochs"]),
        ("train --epoch 3", ["--epoch", "did you mean '--epochs'?"]),
        ("sample --temprature 1", ["did you mean '--temperature'?", "flaxvae sample --help"]),
        ("train --dataset mnits", ["did you mean 'mnist'?", "fashion_mnist"]),
        ("train --model beta-vea", ["did you mean 'beta_vae'?", "models: ae, denoising_ae, vae"]),
        ("train --model vae --capacity 2", ["--capacity"]),
        ("train --model iwae --k 0", ["--k 0", "1 or more"]),
        ("train --model gumbel_vae --temperature 0", ["--temperature 0.0", "above 0"]),
        ("train --model gumbel_vae --min-temperature 2", ["--min-temperature 2.0", "at most"]),
        ("train --model tc_vae --beta -1", ["--beta -1.0", "0 or more"]),
        ("train --model flow_vae --flow-width 8", ["--flow-width 8", "--latent-dim 20"]),
        ("train --model ladder_vae --latent-dims 4 2 1", ["--level-widths 256 128", "3 numbers"]),
        ("train --model deep_vae --levels 14x3", ["an image of 8x8 has no maps", "8, 4, 2, 1"]),
        ("train --model deep_vae --levels 4x0", ["--levels 4x0", "SIDExBLOCKS"]),
        ("train --model deep_vae --latent-channels 0 1", ["--latent-channels 0 1", "1 or more"]),
        ("train --model deep_vae --share-top", ["--share-top with 1 block", "2 or more"]),
        ("train --free-bits 1 --kl monte_carlo", ["--kl monte_carlo", "closed_form"]),
        ("train --model gumbel_vae --kl monte_carlo", ["--kl monte_carlo", "closed_form"]),
        ("train --epochs -1", ["--epochs -1", "0 or more"]),
        ("train --epochs abc", ["--epochs", "abc"]),
        ("train --epochs", ["--epochs"]),
        ("train stray", ["stray"]),
        ("train -q", ["-q"]),
        ("train --net cnn", ["cnn", "conv", "mlp"]),
        ("train --learning-rate 0", ["--learning-rate 0.0", "above 0"]),
        ("train --learning-rate nan", ["--learning-rate nan"]),
        ("train --sigma 0", ["--sigma 0.0", "above 0"]),
        ("train --latent-dim 0", ["--latent-dim 0", "1 or more"]),
        ("train --model beta_vae --beta -1", ["--beta -1.0", "0 or more"]),
        ("train --samples 0", ["--samples 0", "1 or more"]),
        ("train --net mlp --widths 8 0", ["--widths 8 0"]),
        ("train --validation 1", ["--validation 1.0", "below 1"]),
        ("train --patience 3 --validation 0", ["--patience", "--validation"]),
        ("train --batch-size 1320", ["--batch-size 1320", "1317"]),
        ("train --batch-size 100", ["--batch-size 100", "multiple of 8", "use 96"]),
        ("train --batch-size 4", ["multiple of 8", "use 8"]),
        ("train --model tc_vae --batch-size 1 --devices 1", ["--batch-size 1", "2 or more"]),
        ("train --model vamp_vae --free-bits 3", ["--free-bits 3", "--free-bits-per total"]),
        ("train --devices 99", ["--devices 99", "at most 8", "cpu"]),
        ("train --seed -1", ["--seed -1"]),
        ("train --data-dir {run}", ["--data-dir", "--dataset digits", "mnist", "leave it out"]),
        ("train --dataset x.npz --data-dir {run}", ["--data-dir", "--dataset x.npz"]),
        ("train --widths 64", ["--widths 64 has no effect with --net conv", "--net mlp"]),
        ("train --net mlp --channels 8", ["--channels 8", "--net mlp", "--net resnet"]),
        ("train --model beta_vae --capacity-steps 9", ["--capacity-steps 9", "without --capacity"]),
        ("train --cycles 2 --anneal linear", ["--cycles 2", "--anneal linear", "cyclical"]),
        ("sweep --sigma 1 2", ["--sigma 2.0", "--likelihood bernoulli", "gaussian"]),
        ("train --epochs 3 --epochs=4", ["--epochs twice"]),
        ("train --remat --no-remat --net resnet", ["--remat twice"]),
        ("train --model=", ["unknown model ''"]),
        ("train --run=", ["--run", "expected a name"]),
        ("train --resume {run} --sigma 2", ["--sigma 2.0", "--likelihood bernoulli"]),
        ("eval {ae} --samples 3", ["--samples", "ae draws nothing"]),
        ("eval {ae} --seed 3", ["--seed", "ae draws nothing"]),
        ("sample {run} --out=", ["--out", "expected a name"]),
        ("train --run {run}", ["exists and is not empty", "--resume"]),
        ("train --run {run}/run.json", ["exists"]),
        ("train --resume {run} --run new", ["--run new", "--resume"]),
        ("train --resume", ["--resume"]),
        ("eval {ae} --k 100", ["bound"]),
        ("eval {ae} --split validation", ["validation", "test"]),
        ("eval {run} --split tset", ["tset", "validation"]),
        ("eval {run} --k -1", ["-1"]),
        ("eval {run} --k 1.5", ["--k 1.5: expected a whole number"]),
        ("eval {run} --samples 0", ["0"]),
        ("eval {run} --images 361", ["--images 361", "1 to 360"]),
        ("likelihood {ae}", ["ae has no prior", "flaxvae eval"]),
        ("likelihood {run} --k 10 0", ["--k 10 0", "1 to 1000000000 each"]),
        ("likelihood {run} --k 10 1.5", ["--k 10 1.5: expected one or more whole numbers"]),
        ("likelihood {run} --k", ["expected one or more numbers"]),
        ("likelihood {run} --chains 20000000", ["--chains 20000000", "1 to 10000000"]),
        ("likelihood {run} --ais 5", ["--ais", "here it is '--temperatures'"]),
        ("likelihood {run} --images 361", ["--images 361", "1 to 360"]),
        ("likelihood {run} --start q", ["q", "encoder, prior"]),
        ("likelihood {run} --temperatures 0 --chains 4", ["--chains 4", "annealing out"]),
        ("sample {run} --n 0 --out new/s.png", ["--n 0"]),
        ("sample {run} --temperature -1", ["--temperature -1.0"]),
        ("sample {run} --out s.jpg", ["s.jpg", ".png"]),
        ("reconstruct {run} --n 0", ["--n 0"]),
        ("reconstruct {run} --n 361", ["--n 361", "1 to 360"]),
        ("reconstruct {run} --out new/r.npz", [".png"]),
        ("neighbours {run} --k 5000", ["--k 5000", "training images"]),
        ("interpolate {run} --animate gif --out x.png", ["x.png", ".gif"]),
        ("interpolate {run} --rows 0", ["--rows 0", "1 or more"]),
        ("figures {run} --dims 1 2", ["--dims 1 2", "without --only manifold"]),
        ("figures {run} --only manifold --dims 1", ["--dims 1", "two different dimensions"]),
        ("figures {run} --only manifold --dims 2 2", ["--dims 2 2", "two different dimensions"]),
        ("figures {run} --only manifold --dims 1 3", ["--dims 1 3", "two of 1 to 2"]),
        ("figures {run} --only manifold --dims 0 1", ["--dims 0", "1 or more"]),
        ("interpolate {run} --rows 181", ["--rows 181", "1 to 179"]),
        ("interpolate {run} --steps 1 --out new/i.png", ["--steps 1", "2 or more"]),
        ("encode {run} --out z.png", ["z.png", ".npz"]),
        ("sample {run} --label 3", ["--label 3", "no classes"]),
        ("traverse {run} --label 3", ["--label 3", "no classes"]),
        ("traverse {run} --image 360", ["--image 360", "0 to 359"]),
        ("traverse {run} --units 3", ["--units 3", "1 to 2"]),
        ("diagnose {run} --images 0", ["--images 0", "1 or more"]),
        ("diagnose {run} --images 1", ["--images 1", "at least 2"]),
        ("eval {run} --seed -1", ["--seed -1", "0 to 4294967295"]),
        ("sample {run} --seed 4294967301", ["--seed 4294967301", "0 to 4294967295"]),
        ("fit-prior {run} --seed 4294967296", ["--seed 4294967296", "0 to 4294967295"]),
        ("traverse {run} --steps 1 --out new/t.png", ["--steps 1", "2 or more"]),
        ("traverse {ae}", ["no prior"]),
        ("fit-prior {run} --epochs 3", ["--epochs 3 has no effect", "mixture"]),
        ("fit-prior {run} --prior flow --components 3", ["--components 3 has no effect", "flow"]),
        ("sample {run} --prior fitted", ["no prior is fitted", "flaxvae fit-prior"]),
        ("restore {run} --mask none", ["nothing to restore", "--mask or --noise"]),
        ("arithmetic {run} --attribute 12", ["12: expected a label or a factor, 0, 1"]),
        ("arithmetic {run} --attribute 1 --analogy 1 2 3", ["several things to add"]),
        ("arithmetic {run} --analogy 1 2", ["--analogy 1 2", "three numbers"]),
        ("arithmetic {run} --analogy 1 2 3 --judge", ["--judge True has no effect"]),
        ("arithmetic {run} --having some/", ["--having some/", "two sets of images"]),
        ("arithmetic {run} --attribute 1 --against 1", ["nothing is left of the attribute"]),
        ("restore {run} --mask lower-hlf", ["lower-hlf", "did you mean 'lower-half'"]),
        ("restore {run} --noise -1", ["--noise -1", "0 or more"]),
        ("restore {run} --noise 1 --completions 9 --chains 8", ["--completions 9", "at most 8"]),
        ("restore {ae} --mask centre", ["no prior", "flaxvae fit-prior"]),
        ("fit-prior {run} --epochs -1", ["--epochs -1", "0 or more"]),
    ],
)
def test_misuse(refused, line, words):
    refused(line, 2, *words)


@pytest.mark.parametrize("command", [*FLAGS, "train --resume"])
def test_a_folder_that_is_no_run(refused, tmp_path, command):
    refused(f"{command} absent", 2, "absent", "no such folder", "runs/latest")
    refused(f"{command} {tmp_path}", 2, str(tmp_path), "no run.json")


@pytest.mark.parametrize("command", FLAGS)
def test_no_run_yet(refused, command):
    refused(command, 2, "latest", "no such folder")


def test_resume_names_every_setting_that_differs(refused):
    refused(
        "train --resume {run} --learning-rate 0.01 --seed 5 --binarization threshold "
        "--widths 16 16 --ema 0.9",
        2,
        "learning_rate 0.001 -> 0.01",
        "seed 0 -> 5",
        "binarization none -> threshold",
        "widths (32,) -> (16, 16)",
        "ema None -> 0.9",
    )
    error = refused("train --resume {run} --latent-dim 3 --epochs 9 --devices 1")
    assert "latent_dim 2 -> 3" in error
    assert "epochs" not in error and "devices" not in error  # these may differ
    refused("train --resume {run} --model beta_vae", 2, "model vae -> beta_vae", "beta")


# ---- data


def header(magic, *shape):
    return magic + np.array(shape, ">u4").tobytes()


def idx_folder(path, **changes):
    """Four sound IDX files of 16 training and 8 test images, but for ``changes``."""
    path.mkdir()
    for name, count in zip(idx.FILES, (16, 16, 8, 8)):
        images = "images" in name
        shape = (count, 8, 8) if images else (count,)
        values = np.arange(np.prod(shape), dtype=np.uint8)
        raw = header(bytes([0, 0, 8, len(shape)]), *shape) + values.tobytes()
        raw = changes.get(name.rpartition("-idx")[0], lambda raw: raw)(raw)
        if raw is not None:
            (path / name).write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train-images": lambda raw: None}, ["train-images-idx3-ubyte", "no "]),
        ({"t10k-labels": lambda raw: None}, ["t10k-labels-idx1-ubyte", "no "]),
        ({"train-images": lambda raw: raw[:-1]}, ["1023 bytes", "expected 1024"]),
        ({"train-images": lambda raw: raw[:10]}, ["train-images", "each axis"]),
        ({"train-labels": lambda raw: b"\0\0\x08\x03" + raw[4:]}, ["magic", "0x00000803"]),
        ({"t10k-images": lambda raw: b""}, ["t10k-images", "magic"]),
    ],
)
def test_damaged_idx_files(refused, tmp_path, change, words):
    idx_folder(tmp_path / "idx", **change)
    refused("train --dataset mnist --data-dir idx --batch-size 8 --epochs 0", 3, *words)


def test_the_idx_folder_of_these_tests_is_sound_otherwise(refused, tmp_path):
    idx_folder(tmp_path / "idx")
    refused("train --dataset mnist --data-dir idx --batch-size 64", 2, "--batch-size 64", "15")
    refused("train --dataset mnist --data-dir absent", 3, "absent", "no such folder")


GOOD = np.linspace(0, 1, 40 * 64, dtype=np.float32).reshape(40, 8, 8)
BAD_FILES = {
    "keys.npz": ({"pictures": GOOD}, ["no images", "pictures", "x_train"]),
    "nan.npz": ({"x": np.where(np.arange(64).reshape(8, 8) == 9, np.nan, GOOD)}, ["NaN", "40"]),
    "range.npz": ({"x": GOOD * 255}, ["255", "expected 0 to 1"]),
    "shape.npz": ({"x": np.zeros(5)}, ["(5,)"]),
    "pickle.npz": ({"x": np.array([None, 1])}, ["pickle"]),
}


@pytest.mark.parametrize("name", [*BAD_FILES, "absent.npz", "text.npz"])
def test_bad_files_of_images(refused, tmp_path, name):
    arrays, words = BAD_FILES.get(name, ({}, [name]))
    if arrays:
        np.savez(name, **arrays)
    elif name == "text.npz":
        (tmp_path / name).write_text("pixels")
    refused(f"train --dataset {name} --epochs 0", 3, name, *words)
    refused(f"reconstruct {{run}} --images {name} --out new/r.png", 3, name, *words)
    refused(f"encode {{run}} --images {name} --out new/z.npz", 3, name, *words)


def test_images_of_another_shape_than_the_models(refused):
    np.savez("wide.npz", x=GOOD[:, :4])
    for command in ("encode {run} --out new/z.npz", "reconstruct {run} --out new/r.png"):
        refused(f"{command} --images wide.npz", 2, "4, 8, 1)", "[N, 8, 8, 1]")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "training": {"x": 1}}'],
)
def test_a_damaged_run_json(refused, tmp_path, text):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text(text)
    for command in ("sample broken", "train --resume broken"):
        refused(command, 3, "run.json")


def test_a_run_whose_data_have_changed(refused, tmp_path, no_figures, capsys):
    np.savez("faces.npz", x=GOOD)
    line = "train --run faces --dataset faces.npz --epochs 0 --net mlp --batch-size 8 --devices 1"
    assert run(line, capsys)[0] == 0
    np.savez("faces.npz", x=GOOD[::-1])
    for command in ("eval faces", "encode faces", "train --resume faces --epochs 1"):
        refused(command, 3, "sha256", "faces.npz")


# ---- help


def test_help_of_the_program_lists_every_command(capsys):
    for line in ("", "--help", "help", "-h"):
        code, out, err = run(line, capsys)
        assert code == 0 and not err
        assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert run("--version", capsys)[1] == f"flaxvae {flaxvae.__version__}\n"


@pytest.mark.parametrize("command", FLAGS)
def test_help_of_a_command_mentions_its_flags(capsys, command):
    code, out, err = run(f"{command} --help", capsys)
    assert code == 0 and not err
    assert all(f"--{flag} " in out for flag in FLAGS[command].split())


@pytest.mark.parametrize("model", zoo.RECIPES)
def test_help_of_train_mentions_every_setting(capsys, model):
    code, out, err = run(f"train --model {model} --help", capsys)
    assert code == 0 and not err
    settings = [f.name for kind in (DataSettings, TrainSettings) for f in dataclasses.fields(kind)]
    for name in [*lookup.arguments(model), *settings, "model", "run", "resume"]:
        assert re.search(rf"--{name.replace('_', '-')}[ ,]", out), name
    assert ("--straight-through" in out) == (model == "gumbel_vae")


@pytest.mark.parametrize("line", ["--help", "train --help", "eval --help", "trian"])
def test_help_does_not_import_jax(line):
    code = (
        "import sys\nfrom flaxvae import cli\n"
        "try: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'jax', 'flax', 'orbax', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True)
    assert done.stdout.decode().splitlines()[-1] == "[]", done.stderr


# ---- what the commands write


def table(path):
    """The rows of a .csv file."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(line, capsys):
    """The one path that a command prints, relative to here or absolute."""
    code, out, err = run(line, capsys)
    assert (code, err) == (0, "") and out.count("\n") == 1
    return out.strip()


def test_eval_writes_what_it_prints(trained, capsys):
    line = f"eval {trained} --k 3 --samples 2 --images 20 --split validation --seed 1"
    code, out, err = run(line, capsys)
    name = "evaluation-k-3-samples-2-split-validation-images-20-seed-1.json"
    found = json.loads((trained / name).read_text())
    assert (code, err) == (0, "")
    assert f"{-found['elbo']:.2f}" in out and "nats" in out
    assert name in "".join(out.split())  # a long path is broken
    expected = {"split": "validation", "seed": 1, "samples": 2, "images": 20}
    assert expected.items() <= found.items()
    assert found["importance_weighted_elbo"]["k"] == 3 and len(found["kl_per_unit"]) == 2
    numbers = [found[k] for k in ("mse", "reconstruction", "elbo", "elbo_standard_error", "kl")]
    numbers += [*found["kl_per_unit"], *found["importance_weighted_elbo"].values()]
    assert np.isfinite(numbers).all()
    np.testing.assert_allclose(found["elbo"], -found["reconstruction"] - found["kl"], rtol=1e-6)
    np.testing.assert_allclose(sum(found["kl_per_unit"]), found["kl"], rtol=1e-6)
    assert "bits_per_dim" not in found  # pixels in [0, 1] have no probabilities


def test_eval_of_an_autoencoder_reports_no_bound(autoencoder, capsys):
    code, out, _ = run(f"eval {autoencoder}", capsys)
    found = json.loads((autoencoder / "evaluation.json").read_text())
    assert code == 0 and "ELBO" not in out and "KL" not in out
    assert found["images"] == 360 and not {"elbo", "kl", "importance_weighted_elbo"} & found.keys()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample {} --n 4", "samples-n-4"),
        ("sample {} --seed 3 --temperature 0.5", "samples-seed-3-temperature-0.5"),
        ("reconstruct {} --n 4", "reconstructions-n-4"),
        ("reconstruct {} --images mine.npz", "reconstructions-images-mine"),
        ("interpolate {} --rows 2 --steps 3", "interpolations-rows-2-steps-3"),
        ("traverse {} --image 3 --span 2", "traversals-image-3-span-2"),
    ],
)
def test_pictures(trained, capsys, tmp_path, command, name):
    np.savez("mine.npz", images=GOOD)
    command, figures = command.format(trained), trained / "figures"
    default, before = figures / f"{name}.png", {p: p.read_bytes() for p in figures.iterdir()}
    assert default not in before and written(command, capsys) == str(default)
    assert {p: p.read_bytes() for p in before} == before  # those of the training are left
    assert written(f"{command} --out new/picture.PNG", capsys) == "new/picture.PNG"
    for path in (default, tmp_path / "new" / "picture.PNG"):
        assert path.read_bytes().startswith(PNG)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["picture.PNG"]  # nothing partial


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample", "samples"),
        ("reconstruct", "reconstructions"),
        ("interpolate", "interpolations"),
        ("traverse", "traversals"),
    ],
)
def test_without_options_a_figure_of_the_training_is_drawn_again(trained, capsys, command, name):
    drawn = trained / "figures" / f"{name}.png"
    before = drawn.read_bytes()
    drawn.unlink()
    assert written(f"{command} {trained}", capsys) == str(drawn)
    assert drawn.read_bytes() == before


def test_sample_depends_on_seed_and_temperature(trained, capsys, tmp_path):
    pictures = []
    for options in ("", "", "--seed 1", "--temperature 0.5"):
        written(f"sample {trained} --n 4 --out s.png {options}", capsys)
        pictures.append((tmp_path / "s.png").read_bytes())
    assert pictures[0] == pictures[1] and len(set(pictures)) == 3


def test_encode(trained, capsys):
    assert written(f"encode {trained}", capsys) == str(trained / "latents.npz")
    run_ = flaxvae.load(trained)
    test = run_.data().test
    with np.load(trained / "latents.npz") as found:
        assert set(found) == {"z", "score", "labels"}
        assert found["z"].shape == (360, 2) and found["score"].shape == (360,)
        np.testing.assert_array_equal(found["labels"], test.y)
        np.testing.assert_array_equal(found["z"], run_.encode(test.x))
        np.testing.assert_array_equal(found["score"], run_.score(test.x))
    np.savez("mine.npz", images=GOOD)
    assert written(f"encode {trained} --images mine.npz --out mine-z.npz", capsys) == "mine-z.npz"
    with np.load("mine-z.npz") as found:
        assert set(found) == {"z", "score"} and found["z"].shape == (40, 2)
    assert written(f"reconstruct {trained} --images mine.npz --out m.png", capsys) == "m.png"


def test_encode_keeps_what_a_file_says_of_its_images(trained, capsys):
    names = np.array([f"face {i:02}.png" for i in range(40)])
    others = {"name": names, "id": np.arange(40)[:, None], "z": np.zeros(40), "about": np.zeros(3)}
    objects = {"pickled": np.array([{}] * 40)}
    x = (GOOD * 16).astype(np.int64)  # as digits are stored, in a wider type
    np.savez("mine.npz", x=x, y=1990.0 + np.arange(40) % 2, **others, **objects)
    code, out, err = run(f"encode {trained} --images mine.npz --out a.npz", capsys)
    err = " ".join(err.split())
    assert (code, out) == (0, "a.npz\n") and "mine.npz: name, id kept" in err
    assert "z left out: the name is taken by the output" in err
    assert "about left out: not one entry for each of the 40 images" in err
    assert "pickled left out: Python objects" in err
    with np.load("a.npz") as found:
        assert set(found) == {"z", "score", "labels", "name", "id"}
        np.testing.assert_array_equal(found["name"], names)
        np.testing.assert_array_equal(found["id"], others["id"])
        np.testing.assert_array_equal(found["labels"], 1990 + np.arange(40) % 2)
        whole = flaxvae.load(trained).encode(x.astype(np.uint8))
        np.testing.assert_array_equal(found["z"], whole)
    run(f"encode {trained} --images mine.npz --no-scores --out b.npz", capsys)
    with np.load("b.npz") as found:
        assert set(found) == {"z", "labels", "name", "id"}
        np.testing.assert_array_equal(found["z"], whole)


def test_encode_says_how_far_it_is(trained, capsys, monkeypatch):
    monkeypatch.setattr("flaxvae.report.terminal.QUIET", 0.0)
    code, out, err = run(f"encode {trained} --out a.npz", capsys)
    assert (code, out) == (0, "a.npz\n")
    assert "latents: 360 of 360 images" in err and "scores: " in err


DEFAULT = "-log p(x|z) and -log p(code) in standard deviations, their sum"


def default_scores(run, x):
    usual = Reference.open(run, (), Settings()).usual
    return run.scores(x, ["combined"], usual=usual).completed(["combined"], None)["combined"]


def test_score(trained, capsys):
    code, out, err = run(f"score {trained}", capsys)
    first, heads, *shown, threshold, rate, again, picture, path = out.splitlines()
    assert (code, err) == (0, "") and path == str(trained / "scores.csv") and len(shown) == 5
    assert first == f"most unusual of 360 images, {DEFAULT}, the default score:"
    assert heads.split() == ["score", "index", "label", "percentile", "flagged"]
    assert Path(picture).read_bytes().startswith(PNG)
    assert re.fullmatch(r"threshold -?[\d.,]+: \d+ of 360 flagged", threshold)
    assert rate == "set for 5 % of normal images at most, on 120 held-out images"
    assert f"report {trained}` shows them in the run's page" in again
    rows = table(path)
    assert [*rows[0]] == ["index", "score", "percentile", "flagged", "label"]
    run_ = flaxvae.load(trained)
    test = run_.data().test
    assert [row["index"] for row in rows[:5]] == [line.split()[1] for line in shown]
    assert [row["label"] for row in rows[:5]] == [line.split()[2] for line in shown]
    flags = [{"1": "yes", "0": "no"}[row["flagged"]] for row in rows[:5]]
    assert flags == [line.split()[-1] for line in shown]
    order, found = np.array([int(row["index"]) for row in rows]), default_scores(run_, test)
    np.testing.assert_array_equal(np.sort(order), np.arange(360))
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), found[order])
    assert (np.diff(found[order]) <= 0).all()
    np.testing.assert_array_equal([int(row["label"]) for row in rows], test.y[order])


def test_score_of_a_file_has_its_names(trained, capsys):
    names = np.array([f"face, {i:02}" for i in range(40)])
    np.savez("mine.npz", x=GOOD, about=names, name=names)
    for line in ("score {} mine.npz", "score {} --images mine.npz --out b.csv"):
        code, out, err = run(line.format(trained), capsys)
        assert (code, err) == (0, "") and "most unusual of 40 images" in out
    rows = table("b.csv")
    assert rows == table(trained / "scores-images-mine.csv")
    assert [*rows[0]] == ["file", "score", "percentile", "flagged"]
    assert {row["file"] for row in rows} == {*names}
    scores = dict(zip(names, default_scores(flaxvae.load(trained), GOOD), strict=True))
    assert all(np.float32(row["score"]) == scores[row["file"]] for row in rows)


def test_the_word_after_the_run_is_images(trained, refused, capsys, tmp_path):
    np.savez("mine.npz", x=GOOD)
    for name in ("a", "b"):
        flag = "--images" * (name == "b")
        assert written(f"encode {trained} {flag} mine.npz --out {name}.npz", capsys)
        assert written(f"reconstruct {trained} {flag} mine.npz --out {name}.png", capsys)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with np.load("a.npz") as one, np.load("b.npz") as other:
        np.testing.assert_array_equal(one["z"], other["z"])
    refused("encode {run} mine.npz --images mine.npz", 2, "--images twice")
    refused("sample {run} mine.npz", 2, "mine.npz")


def test_an_empty_folder_of_pictures(refused, tmp_path):
    (tmp_path / "pictures").mkdir()
    for command in ("encode {run} --images", "score {run}", "train --dataset"):
        refused(f"{command} pictures", 3, "pictures: no pictures in it (it is empty)")


def test_figures_draws_all_again(trained, capsys):
    names = ["reconstructions", "samples", "latent_scatter"]
    names += ["interpolations", "traversals", "manifold", "curves"]
    for path in (trained / "figures").iterdir():
        path.unlink()
    code, out, err = run(f"figures {trained}", capsys)
    assert (code, err) == (0, "")
    expected = {str(trained / "figures" / f"{name}.png") for name in names}
    assert set(out.split()) == expected
    assert {str(p) for p in (trained / "figures").iterdir()} == expected
    assert all(p.read_bytes().startswith(PNG) for p in (trained / "figures").iterdir())


def test_train_then_latest(capsys, tmp_path, no_figures):
    code, out, err = run("train --net mlp --widths 8 --epochs 1 --seed 3 --devices 1", capsys)
    assert (code, err) == (0, "")
    (path,) = (p for p in (tmp_path / "runs").iterdir() if p.name != "latest")
    assert path.name.startswith("digits-vae-s3-") and f"flaxvae eval runs/{path.name}" in out
    assert "\x1b" not in out
    assert written("sample --n 1", capsys) == f"runs/{path.name}/figures/samples-n-1.png"


# ---- plans


def test_unknown_argument_of_make_plan():
    with pytest.raises(UsageError, match=r"'learning_rat' .*did you mean 'learning_rate'\?"):
        flaxvae.make_plan(learning_rat=0.1)
    with pytest.raises(UsageError, match="'capacity' for model 'vae'"):
        flaxvae.make_plan("vae", capacity=2.0)
    assert flaxvae.make_plan("beta_vae", beta=2.0).arguments["beta"] == 2.0


@pytest.mark.parametrize("name", ["net", "schedule", "binarization", "likelihood", "kl"])
def test_make_plan_refuses_a_value_that_is_no_option(name):
    with pytest.raises(UsageError, match=f"{name}='nonsense': expected one of"):
        flaxvae.make_plan(**{name: "nonsense"})


def test_one_epoch_is_one(tmp_path, capsys, monkeypatch):
    """And after it the training says what goes on."""
    monkeypatch.setattr("flaxvae.report.figures.suited", lambda *arguments: ["curves"])
    line = "train --net mlp --widths 8 --epochs 1 --devices 1 --run r"
    out = run(line, capsys)[1]
    assert "1 epoch, batch 128" in out and "1 epochs" not in out
    assert out.index("1/1") < out.index("evaluating 360 test images") < out.index("drawing figures")
    assert "1 epoch" in run("verify r", capsys)[1]


def test_reads_that_outlive_a_failed_one_say_nothing(monkeypatch, capsys):
    """TensorStore's threads end so by the dozen where a checkpoint is damaged."""
    reported = []
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(cli, "_report", reported.append)
    cli.main(["--version"])

    class Dropped:
        def __init__(self, words):
            self.words = words

        def __del__(self):
            raise RuntimeError(self.words)

    Dropped("Event loop is closed")
    assert not reported
    Dropped("anything else")
    assert len(reported) == 1 and capsys.readouterr().err == ""
