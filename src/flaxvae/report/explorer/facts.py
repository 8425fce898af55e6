"""What the explorer shows besides the model: test images, their codes, and what it is checked with.

Everything is of the test split's first images, as many as a page can hold.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxvae import outside
from flaxvae.analysis import latent_space
from flaxvae.data import labels
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.errors import command
from flaxvae.report import shown
from flaxvae.report.explorer.functions import Functions, latents_read
from flaxvae.report.shown import Subject
from flaxvae.runs.run import Run

Array = np.ndarray
IMAGES = 256  # at most, and no more than these numbers of pixels and of codes
PIXELS, CODES = 400_000, 100_000
PROBES = 4  # codes that are decoded by JAX, and images that it encodes
TILES = 1_500_000  # numbers of a precomputed grid, at most


class Facts(NamedTuple):
    """Numbers and text for the page's JSON, and arrays by name."""

    said: dict[str, Any]
    arrays: dict[str, Array]


def of(subject: Subject, functions: Functions | None) -> Facts:
    """The facts of a run; without ``functions``, those of a precomputed grid.

    Raises FloatingPointError if codes are not finite.
    """
    run, test = subject.run, subject.test
    size, length = math.prod(run.spec.shape), run.latent_size
    count = min(IMAGES, PIXELS // size, CODES // length, len(test.x))
    some = taken(test, np.arange(max(count, 1)))
    z = run.encode(some)
    if not np.isfinite(z).all():
        raise FloatingPointError("codes of test images are not finite")
    pixels = some.images(slice(None))
    arrays = {"pictures": _bytes(pixels), "mean": z.mean(0), "sd": z.std(0)}
    classes = None if run.recipe.classes is None else [str(name) for name in run.spec.names]
    said: dict[str, Any] = {
        "shape": list(run.spec.shape),
        "example": run.spec.example,
        "binary": run.spec.binary,
        "classes": classes,
        "latents": length,
        "standard": run.recipe.standard_prior and run.recipe.has_bound,
        "posterior": run.recipe.has_bound,  # of a plain autoencoder, z is the code itself
        "random": not run.recipe.has_bound and run.fitted is None,  # no prior to draw from
        "code": run.recipe.code,
        **_labelled(run, some),
        **_score(subject),
    }
    if run.recipe.codes is not None:
        arrays["codes"] = indices = _indices(run, some)
        said["grid"] = {"size": run.recipe.codes.size, "shape": list(run.recipe.codes.grid)}
        said["uniform"] = run.recipe.codes.prior is None
    else:
        arrays["codes"], indices = z, None
        usage = shown.used(run, subject.evaluation)
        read = length if functions is None else latents_read(functions.graphs["decode"])
        said["read"] = read
        said["measure"] = _measure(subject)
        said["order"] = np.lexsort((-usage, np.arange(length) >= read)).tolist()
        said["usage"] = [_number(x) for x in usage]
        directions, said["explained"] = _principal(z, read)
        if directions is not None:
            arrays["directions"] = directions
    if run.recipe.hierarchy is not None:
        said["levels"] = run.recipe.hierarchy._asdict()
    if functions is None:
        tiles, reach = _tiles(run, arrays, said)
        arrays["tiles"], said["reach"] = tiles, reach
    else:
        said["missing"] = functions.missing | _without_draws(run)
        arrays |= _probes(run, some, z, indices)
    return Facts(said, {name: _single(array) for name, array in arrays.items()})


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _bytes(images: Array) -> Array:
    return (np.nan_to_num(images).clip(0, 1) * 255).round().astype(np.uint8)


def _labelled(run: Run, some: Split) -> dict[str, Any]:
    """What is known of each image: its class, as a number and in words, and its file."""
    found: dict[str, Any] = {}
    names = run.spec.names
    if some.y is not None and names:
        found["names"] = [str(name) for name in names]
        found["labels"] = labels.find(some.y, names)[0].tolist()
    if some.files is not None:
        found["files"] = [str(name) for name in some.files]
    return found


def _score(subject: Subject) -> dict[str, Any]:
    """The mean score of the test images: -ELBO, or of a plain autoencoder its first term."""
    evaluation = subject.evaluation
    if evaluation.elbo is None:
        return {"score": ["−log p(x|z)", _number(evaluation.reconstruction)]}
    return {"score": ["−ELBO", _number(-evaluation.elbo)]}


def _number(value: Any) -> float | None:
    """A number for the page's JSON, which has none that are not finite."""
    return round(float(value), 4) if math.isfinite(value) else None


def _measure(subject: Subject) -> str:
    return (
        "KL" if len(subject.evaluation.kl_per_unit or ()) == subject.run.latent_size else "variance"
    )


def _indices(run: Run, some: Split) -> Array:
    codes = run.recipe.codes
    assert codes is not None
    find = batches.over_split(lambda v, key, batch: codes.indices(v, batch.x, batch.y), run.mesh)
    return np.asarray(find(run.split(some), run.variables, jax.random.key(0)))


def _without_draws(run: Run) -> dict[str, str]:
    """Why the page draws no codes, if their prior is a network that is fitted to them."""
    if run.recipe.codes is None or run.recipe.codes.prior is None:
        return {}
    if run.generates:
        return {"sample": "the prior fitted to the codes is not in the page; see Samples below"}
    fit = command("flaxvae", "fit-prior", run.path, *outside.flag(run.folder.recipes))
    return {"sample": f"there is no prior over the codes yet; {fit} fits one"}


def _principal(z: Array, read: int) -> tuple[Array | None, tuple[float, float] | None]:
    """[2, D] the two principal directions of the codes, and their parts of the variance.

    Both of the first ``read`` latents only, for the image follows no other.
    """
    seen = z[:, :read]
    if min(seen.shape) < 3:
        return None, None
    directions = np.zeros((2, z.shape[1]), z.dtype)
    directions[:, :read] = np.linalg.svd(seen - seen.mean(0), full_matrices=False)[2][:2]
    return directions, latent_space.plane(seen).explained


def _probes(run: Run, some: Split, z: Array, indices: Array | None) -> dict[str, Array]:
    """Codes with the images that JAX decodes, and images with the codes that it finds."""
    few = min(PROBES, len(z))
    y = None if run.recipe.classes is None or some.y is None else some.y[:few]
    found = {
        "probe_images": run.decode(z[:few], y),
        "probe_pixels": some.images(slice(0, few)),
        "probe_codes": z[:few] if indices is None else indices[:few],
    }
    if y is not None:
        found["probe_labels"] = labels.find(y, run.spec.names)[0].astype(np.int32)
    return found


def _tiles(run: Run, arrays: dict[str, Array], said: dict[str, Any]) -> tuple[Array, list[float]]:
    """[n, n, *shape] images decoded on the plane that the explorer starts with, from top left."""
    n = int(min(max(math.sqrt(TILES / math.prod(run.spec.shape)), 5), 15))
    z = arrays["codes"]
    middle = np.zeros(run.latent_size) if said["standard"] else z.mean(0)
    units = np.eye(run.latent_size)[(said["order"] * 2)[:2]]
    axes = arrays.get("directions", units)
    if run.latent_size == 1:
        axes[1] = 0  # each row shows the same
    reach = float(np.abs((z - middle) @ axes.T).max()) or 1.0
    steps = np.linspace(-reach, reach, n)
    across, down = np.meshgrid(steps, steps[::-1])
    codes = middle + across[..., None] * axes[0] + down[..., None] * axes[1]
    names = run.spec.names
    y = None if run.recipe.classes is None else names[len(names) // 2]
    images = run.decode(codes.reshape(n * n, -1), y)
    return _bytes(images).reshape(n, n, *images.shape[1:]), [-reach, reach]
