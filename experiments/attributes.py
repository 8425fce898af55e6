"""Attribute vectors: what a step along them changes, and what it should have left alone.

The vector of an attribute is the mean code of the training images with it, less that of those
without. It is added once, or twice, to the codes of test images that are read as without the
attribute. Readings are of decoded images, before and after: classes by a classifier that was
trained on the training images and never saw the VAE, the others by a measurement of the image.
"Unwanted" is the mean over the other attributes of how many of the same images are read differently
afterwards. Random directions as long as the vector say what any step does. "Orthogonal" vectors
are without what points along those of the other attributes.

MNIST: which digit (each of ten vectors; to become a third digit is unwanted), stroke width and
slant, above or below the median. Frey faces: smiling, by two sets of frames picked by looking at
them, runs of the video without closed eyes or a tongue (which make up 840 of 1,965 frames), and
turned right, by where the dark features are. Sprites: scale and place in the upper half of their
values or not, by area and centre, and whether the shape is an ellipse, by how long it is.

512-256-20 for MNIST, 256-128-10 for sprites averaged to 32x32, 200-10 and a Gaussian with one
learnt variance for the faces. Strengths and sizes were set beforehand; hearts, which were tried
first on sprites, are not told from squares by this VAE.

He smiles in other places than he is serious in, so that the vector of a smile moves the face, too:
made orthogonal it does so less, and the faces smile as often. Attributes of sprites are
independent, and there orthogonal vectors are worse, for angles between vectors of latent space mean
nothing to the decoder: what is taken away is wanted. That a shape is long is no direction at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import disentanglement, judged, runs
from experiments.table import Beside, Row
from flaxvae import writing
from flaxvae.analysis import attributes, changes, features, strokes
from flaxvae.data import frey, sprites
from flaxvae.data.dataset import taken
from flaxvae.report import plots
from flaxvae.runs import classified
from flaxvae.runs.run import Run

Array = np.ndarray
Read = Callable[[Array], dict[str, Array]]  # decoded images -> readings

TESTED, SHOWN, STRENGTHS = 2000, 8, (1.0, 2.0)
DRAWN = 4  # random directions as long as a vector; one for each digit's
FACES, SPRITES = 100, 20  # epochs
SPRITE_IMAGES, SPRITE_TESTS = 50_000, 4_000
# Frames of the video, first and last + 1.
SERIOUS = ((31, 81), (91, 112), (135, 220), (235, 320), (327, 400))
SMILING = ((644, 766), (796, 836), (840, 880), (900, 1086), (1114, 1187), (1194, 1259))
LONG = 1.6  # ratio of the variances along a shape's axes: 2.6 of an ellipse, else 1
WANTED, UNWANTED = "{}: wanted changes, %", "{}: unwanted changes, %"
RANDOM, CLEAN = "{}, random directions", "{}, orthogonal"
READINGS = "accuracy of the readings of sprites: long, large, right, low, %"
DIGIT = "digits, to another digit"


MEASURED = (
    "stroke width",
    "slant",
    DIGIT,
    "smiling",
    "turned right",
    "long",
    "large",
    "right",
    "low",
)
BESIDE = [
    Beside("accuracy of the judge of digits, %", 95, 99.8, "what small networks reach"),
    Beside("accuracy of the judge of smiles, %", 95, 100, "faces of one person, in one light"),
    Beside(READINGS, 95, 100, "measurements of sharp images"),
    *(
        Beside(
            WANTED.format(name),
            WANTED.format(RANDOM.format(name)),
            100,
            "above random directions'; a share",
        )
        for name in MEASURED
        if name != "long"
    ),
    Beside(
        WANTED.format("long"), 0, 5, "a share; at each orientation an ellipse lies in another way"
    ),
    *(
        Beside(UNWANTED.format(name), 0, WANTED.format(name), "a share; below the wanted")
        for name in MEASURED
    ),
    *(
        Beside(
            UNWANTED.format(CLEAN.format(name)),
            0,
            UNWANTED.format(name),
            "a share; below those of a vector that points along the other attribute, too",
        )
        for name in ("smiling", "turned right")
    ),
]


class Attribute(NamedTuple):
    vector: Array  # [D]
    clean: Array  # orthogonal to the others


def of_codes(codes: Array, having: Mapping[str, Array]) -> dict[str, Attribute]:
    """Vectors of attributes from codes [N, D] and which of them have each, [N] bool."""
    vectors = {name: attributes.vector(codes, has, name) for name, has in having.items()}
    return {
        name: Attribute(
            own,
            attributes.orthogonal(own, np.array([v for k, v in vectors.items() if k != name])),
        )
        for name, own in vectors.items()
    }


def measured(
    run: Run, codes: Array, known: Mapping[str, Attribute], read: Read
) -> dict[tuple[str, str, float], list[changes.Changed]]:
    """What changes, by attribute, kind of direction and strength; of each digit, in one list."""
    before = read(run.decode(codes))
    found: dict[tuple[str, str, float], list[changes.Changed]] = {}
    for name, (vector, clean) in known.items():
        seeds = range(1 if name.isdigit() else DRAWN)
        directions = [("{}", vector), (CLEAN, clean)]
        directions += [(RANDOM, changes.random_direction(vector, seed)) for seed in seeds]
        for kind, direction in directions:
            for strength in STRENGTHS:
                after = read(run.decode(codes + np.float32(strength * direction)))
                group = DIGIT if name.isdigit() else name, kind, strength
                found.setdefault(group, []).append(changed(before, after, name))
    return found


def changed(before: dict[str, Array], after: dict[str, Array], name: str) -> changes.Changed:
    """As ``changes.changed``; a name that is a digit is that value of "digit"."""
    if not name.isdigit():
        return changes.changed(before, after, name)
    before, after = ({**found, name: found["digit"] == int(name)} for found in (before, after))
    return changes.changed(before, after, name, value_of="digit")


def told(
    found: Mapping[tuple[str, str, float], list[changes.Changed]], run: Run, epochs: int
) -> list[Row]:
    """The rows of one model."""
    strengths = " and ".join(f"{strength:g}" for strength in STRENGTHS)
    where = run.spec.name, f"{epochs} epochs, strengths {strengths}"
    rows = []
    for name, kind in dict.fromkeys(key[:2] for key in found):
        groups = [found[name, kind, strength] for strength in STRENGTHS]
        wanted = [[one.wanted for one in group] for group in groups]
        unwanted = [[one.unwanted_mean for one in group] for group in groups]
        for words, rates in ((WANTED, wanted), (UNWANTED, unwanted)):
            means = ", ".join(f"{100 * np.mean(rate):.1f}" for rate in rates)
            rows.append(Row(words.format(kind.format(name)), *where, means))
    return rows


def draw(path: Path, run: Run, codes: Array, directions: Mapping[str, Array], title: str) -> None:
    """Reconstructions, and what they become, a row for each direction and strength."""
    rows, labels = [run.decode(codes)], ["reconstruction"]
    for name, direction in directions.items():
        for strength in STRENGTHS:
            rows.append(run.decode(codes + np.float32(strength * direction)))
            labels.append(f"{name}, +{strength:g}")
    plots.image_grid(path, [np.clip(row, 0, 1) for row in rows], labels, title=title)


# ---- MNIST


def mnist() -> list[Row]:
    run = judged.vae()
    data = run.data()
    judge = classified.classifier(data)
    train, test = data.train, taken(data.test, np.arange(TESTED))
    assert train.y is not None and data.test.y is not None
    x = train.images()
    measures = {"stroke width": strokes.width, "slant": strokes.slant}
    having = {str(digit): train.y == digit for digit in range(10)}
    having |= {name: f(x) > np.median(f(x)) for name, f in measures.items()}
    codes, train_codes = run.encode(test), run.encode(train)
    middle = {name: np.median(f(run.decode(codes))) for name, f in measures.items()}

    def read(images: Array) -> dict[str, Array]:
        found = {name: f(images) > middle[name] for name, f in measures.items()}
        return {"digit": judge.classify(images), **found}

    known = of_codes(train_codes, {name: having[name] for name in measures})
    for digit in range(10):
        # The vectors of ten digits add up to about nothing: orthogonal to the measured ones only.
        own = attributes.vector(train_codes, having[str(digit)], str(digit))
        others = np.array([known[name].vector for name in measures])
        known[str(digit)] = Attribute(own, attributes.orthogonal(own, others))
    assert test.y is not None
    shown = np.concatenate([np.flatnonzero(test.y == digit)[:1] for digit in range(10)])
    directions = {name: known[name].vector for name in (*measures, "3", "9")}
    title = "Attribute vectors added to the codes of test images, MNIST"
    draw(runs.FIGURES / "attributes_mnist.png", run, codes[shown], directions, title)
    accuracy = 100 * judge.accuracy(np.asarray(data.test.x), data.test.y)
    row = Row("accuracy of the judge of digits, %", run.spec.name, "", f"{accuracy:.1f}")
    return [row, *told(measured(run, codes, known, read), run, judged.EPOCHS)]


# ---- Frey faces


def picked(frames: Array) -> tuple[Array, Array]:
    """Which of these frames are smiling, and which are serious, [N] bool each."""
    smiling, serious = (
        np.any([(first <= frames) & (frames < end) for first, end in runs_], axis=0)
        for runs_ in (SMILING, SERIOUS)
    )
    return smiling, serious


def place(faces: Array) -> Array:
    """[N] the mean column of what is dark between the temples: brows, eyes, nose and mouth."""
    dark = np.clip(0.55 - np.asarray(faces, np.float64)[:, 4:20, 3:17, 0], 0, None)
    return (dark * np.arange(3, 17)).sum((1, 2)) / np.maximum(dark.sum((1, 2)), 1e-9)


def faces() -> list[Row]:
    run = runs.train(
        "attributes_faces",
        "vae",
        dataset="frey_faces",
        net="mlp",
        widths=(200,),
        latent_dim=10,
        likelihood="gaussian_shared",
        epochs=FACES,
    )
    data, (train_frames, held, test_frames) = run.data(), frey.frames()
    assert data.validation is not None
    x, codes = data.train.images(), run.encode(data.train)
    smiling, serious = picked(train_frames)
    some = smiling | serious
    right = place(x) > np.median(place(x[some]))
    known = of_codes(codes[some], {"smiling": smiling[some], "turned right": right[some]})
    judge = features.train(x[some], smiling[some].astype(int), epochs=40, size=16)

    others = np.concatenate([data.validation.images(), data.test.images()])
    smiles, plain = picked(np.concatenate([held, test_frames]))
    others, smiles = others[smiles | plain], smiles[smiles | plain]
    z = run.encode(others)
    middle = np.median(place(run.decode(z)))

    def read(images: Array) -> dict[str, Array]:
        images = np.clip(images, 0, 1)
        return {"smiling": judge.classify(images) == 1, "turned right": place(images) > middle}

    directions = {name: one.clean for name, one in known.items()}
    title = "Orthogonal attribute vectors added to the codes of serious faces, Frey faces"
    first = z[~smiles][:SHOWN]
    draw(runs.FIGURES / "attributes_faces.png", run, first, directions, title)
    accuracy = 100 * judge.accuracy(others, smiles.astype(int))
    row = Row("accuracy of the judge of smiles, %", run.spec.name, "", f"{accuracy:.1f}")
    return [row, *told(measured(run, z, known, read), run, FACES)]


# ---- sprites


def sprite_data() -> tuple[Path, Array, Array]:
    """The file of the images, and the factors of its training and test images."""
    train, _, test = sprites.splits(color=False)
    rows = train[:SPRITE_IMAGES], test[:SPRITE_TESTS]
    path = runs.ROOT / f"attributes_sprites_{SPRITE_IMAGES}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x_train, x_test = map(disentanglement.reduced, rows)
        with writing.whole(path) as file:
            np.savez(file, x_train=x_train, x_test=x_test)
    return path, *rows


def upper(rows: Array) -> dict[str, Array]:
    """Which rows of factors have each attribute."""
    names = [name for name, _ in sprites.FACTORS]
    column = {name: rows[:, i].astype(int) for i, name in enumerate(names)}
    return {
        "long": column["shape"] == 1,
        "large": column["scale"] > 2,
        "right": column["x"] > 15,
        "low": column["y"] > 15,
    }


def sprite_readings(images: Array, middle: float) -> dict[str, Array]:
    """The same, read from images: by moments of their pixels."""
    x = np.asarray(images, np.float64)[..., 0]
    area, at = x.sum((1, 2)), np.arange(x.shape[1], dtype=float)
    total = np.maximum(area, 1e-9)

    def mean(values: Array) -> Array:
        return (x * values).sum((1, 2)) / total

    right, down = at[None, None], at[None, :, None]
    across, along = mean(right), mean(down)
    apart = mean(right**2) - across**2 - mean(down**2) + along**2
    both = mean(right**2) - across**2 + mean(down**2) - along**2
    spread = np.hypot(apart, 2 * (mean(right * down) - across * along))
    return {
        "long": (both + spread) > LONG * (both - spread),  # variances along the axes
        "large": area > middle,
        "right": across > at.mean(),
        "low": along > at.mean(),
    }


def sprite() -> list[Row]:
    path, train_rows, rows = sprite_data()
    own = {**disentanglement.setting({}, seed=0), "epochs": SPRITES}
    run = runs.train("attributes_sprites", "vae", dataset=str(path), **own)
    data, having = run.data(), upper(train_rows)
    x = data.train.images()
    area = x.sum((1, 2, 3))
    sizes = [area[train_rows[:, 1] == scale].mean() for scale in (2, 3)]

    def read(images: Array) -> dict[str, Array]:
        return sprite_readings(images, float(np.mean(sizes)))

    codes = run.encode(taken(data.test, np.arange(TESTED)))
    known = of_codes(run.encode(data.train), having)
    directions = {name: one.vector for name, one in known.items()}
    title = "Attribute vectors added to the codes of test images, sprites"
    draw(runs.FIGURES / "attributes_sprites.png", run, codes[:SHOWN], directions, title)
    seen, truth = read(data.test.images()), upper(rows)
    accuracies = [100 * (seen[name] == truth[name]).mean() for name in truth]
    row = Row(READINGS, run.spec.name, "", ", ".join(f"{each:.1f}" for each in accuracies))
    return [row, *told(measured(run, codes, known, read), run, SPRITES)]


def study() -> list[Row]:
    return [*mnist(), *faces(), *sprite()]
