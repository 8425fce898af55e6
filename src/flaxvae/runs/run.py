"""A trained model in hand: ``flaxvae.load("runs/latest")``."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae import outside, zoo
from flaxvae.core import Batch, Variables
from flaxvae.data import images, labels, pipeline, pixels
from flaxvae.data.pipeline import Data, Split
from flaxvae.declared import NotNegative, Positive, Seed, typed
from flaxvae.errors import DataError, UsageError, command, did_you_mean
from flaxvae.settings import Place
from flaxvae.devices import batches
from flaxvae.runs import places, records
from flaxvae.devices import mesh as meshes
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.contents import digest
from flaxvae.runs.restored import restore
from flaxvae.plan import Plan
from flaxvae.runs.folder import RunFolder
from flaxvae.recipe import DataSpec, Recipe


@dataclasses.dataclass(frozen=True)
class Run:
    """A model with its trained variables, and the folder it came from.

    Arrays go in and come out as NumPy. Images may be [N, *shape] or, with one channel, [N, H, W]:
    whole numbers with the dataset's own white, or floats in [0, 1]. They are binarized as the
    evaluation images were, where the model was trained on binary ones. Labels are the dataset's.

    The same images on as many devices give the same bits. One device may add up a product of few
    rows in another order than one of many: other company, or another number of devices (``load``
    takes all there are), changes results by rounding, 1e-7 of their size.
    """

    folder: RunFolder
    plan: Plan
    spec: DataSpec
    recipe: Recipe
    variables: Variables
    peak: float  # what uint8 images are divided by
    mesh: Mesh
    step: int = 0  # of the checkpoint that the variables are of
    finished: bool = True
    remarks: tuple[str, ...] = ()  # what to know of the variables, if they are not as usual

    @property
    def path(self) -> Path:
        return self.folder.path

    def data(self, place: Place = Place()) -> Data:
        """The run's own data, loaded again, from ``place`` if they are elsewhere now.

        Raises DataError if they are not found, or have changed.
        """
        check = functools.partial(check_same_data, self.folder)
        return places.find(self.plan.data, self.folder.record(), check, place)[0]

    @property
    def generates(self) -> bool:
        """Whether there is a prior to draw from: a codebook's is fitted after training."""
        codes = self.recipe.codes
        return codes is None or codes.prior is None or "prior" in self.variables

    def encode(self, x: Any, y: Any = None, *, watch: batches.Watch | None = None) -> np.ndarray:
        """The code of each image, [N, D], drawn by no key: ``recipe.code`` says what it is."""
        return self._encode(self.split(x, y), self.variables, jax.random.key(0), watch)

    def decode(self, z: Any, y: Any = None) -> np.ndarray:
        """The mean of p(x|z): [N, D] -> [N, *shape]. Raises UsageError on other shapes.

        In [0, 1], like all that decodes, but for the Gaussian likelihoods, whose means are any
        numbers; ``np.clip(x, 0, 1)`` makes images of them, to encode or reconstruct again.
        """
        z = jnp.asarray(z, jnp.float32)
        if z.ndim != 2 or z.shape[1] != self.latent_size:
            raise UsageError(f"latents of shape {z.shape}: expected [N, {self.latent_size}]")
        y, size = self.labels(y, len(z)), batches.at_once(self.spec.shape)
        parts = [
            self._decode(z[i : i + size], None if y is None else jnp.asarray(y[i : i + size]))
            for i in range(0, max(len(z), 1), size)
        ]
        return np.concatenate(parts)

    @typed
    def sample(
        self, n: Positive, *, seed: Seed = 0, temperature: NotNegative = 1.0, y: Any = None
    ) -> np.ndarray:
        """Means of p(x|z) for ``n`` draws z from the prior, [n, *shape].

        ``temperature`` scales the prior's standard deviation. A conditional model takes one label
        ``y`` or n of them; by default all its classes, in order.

        Raises UsageError for numbers or labels out of range, a temperature where the prior has
        none, or a prior that is not fitted yet.
        """
        codes = self.recipe.codes
        if temperature != 1 and codes is not None and codes.prior is None:
            raise UsageError(
                f"--temperature {temperature:g} has no effect on the uniform prior of model "
                f"{self.plan.model}: expected 1, or leave it out"
            )
        if not self.generates:
            fit = command("flaxvae", "fit-prior", self.path, *outside.flag(self.folder.recipes))
            raise UsageError(
                f"{self.path} has no prior yet: expected one over its codes; run `{fit}` first"
            )
        if y is None and self.recipe.classes is not None:
            names = np.array(self.spec.names)
            y = names[np.arange(n) * len(names) // n]
        z = self._prior_sample(jax.random.key(seed), n, temperature)
        return self.decode(z, y)

    def reconstruct(self, x: Any, y: Any = None) -> np.ndarray:
        """The mean of p(x|z) at each image's code, [N, *shape]."""
        return self._reconstruct(self.split(x, y), self.variables, jax.random.key(0))

    @typed
    def score(
        self,
        x: Any,
        y: Any = None,
        *,
        samples: Positive = 16,
        seed: Seed = 0,
        watch: batches.Watch | None = None,
    ) -> np.ndarray:
        """-ELBO of each image in nats, averaged over draws of z, [N]: high where it is unusual.

        The noise is the image's own, by its pixels, its label and the seed: an image has the same
        score alone and in any company, in any order, on any number of devices. A plain autoencoder,
        which has no bound, gives -log p(x | z = f(x)). ``watch`` hears how far it is.
        """
        split, key = self.split(x, y), jax.random.key(seed)
        inputs = (self.variables, np.int32(samples))
        return -self._bound(split, inputs, key, watch, pipeline.fingerprints(split))

    def code(self, variables: Variables, key, batch: Batch) -> jax.Array:
        """``encode`` as a function of a batch, for ``batches.over_split``."""
        return self._latent(variables, None, batch).code

    def reconstruction(self, variables: Variables, key, batch: Batch) -> jax.Array:
        """``reconstruct`` as a function of a batch, for ``batches.over_split``."""
        z = self._latent(variables, None, batch).z
        return self.recipe.model.decode(variables, z, batch.y).mean

    def labels(self, y: Any, n: int) -> np.ndarray | None:
        """Class numbers [n] for a conditional model, which gets one label for all or one for each.

        None for others, which look at no label.

        Raises UsageError where they are missing, or not among the data's classes.
        """
        if self.recipe.classes is None:
            return None
        known = labels.listed(self.spec.names)
        if y is None:
            raise UsageError(f"model {self.plan.model} is conditional: expected labels, {known}")
        shape = np.shape(y)
        if len(shape) > 1 or (shape and shape != (n,)):
            raise UsageError(f"labels of shape {shape}: expected one, or {n}")
        found, strange = labels.find(y, self.spec.names)
        if strange is not None:
            hint = did_you_mean(str(strange), map(str, self.spec.labels or ()))
            raise UsageError(
                f"label {strange}: expected {known}, the classes of {self.spec.name}{hint}"
            )
        return np.broadcast_to(found, (n,))

    def split(self, x: Any, y: Any = None, what: str = "images") -> Split:
        """Images checked and prepared as the run's own were, with class numbers.

        ``what`` names them in messages.

        Raises:
            UsageError: another shape than the model's, or labels missing where it needs them.
            DataError: values that are not finite, or outside [0, 1].
        """
        x, shape = np.asarray(x), self.spec.shape
        if x.shape[1:] != shape and (*x.shape[1:], 1) == shape:
            x = x[..., None]
        if x.shape[1:] != shape or not len(x):
            wanted, seen = ", ".join(map(str, shape)), x.shape
            first = len(shape) == 3 and seen[1:] == (shape[2], *shape[:2])
            hint = "; np.moveaxis(x, 1, -1) makes it so" if first else ""
            raise UsageError(f"{what} of shape {seen}: expected [N, {wanted}] with N >= 1{hint}")
        x, peak = pixels.stored(pixels.array(x, what), self.peak, what)
        split = Split(x, self.labels(y, len(x)), peak)
        if self.plan.data.binarization == "none":
            return split
        key, own = pipeline.binarization_key(fold=3), pipeline.fingerprints(split)
        return split._replace(x=self._binarize(split, {}, key, None, own), peak=1.0)

    def _latent(self, variables, key, batch):
        model = self.recipe.model
        features = model.encode(variables, batch.x, batch.y)
        return model.reparameterize(variables, key, features, False)

    @functools.cached_property
    def latent_size(self) -> int:
        """D, the numbers in a code."""
        label = None if self.recipe.classes is None else jnp.zeros(1, jnp.int32)
        batch = Batch(jnp.zeros((1, *self.spec.shape)), label)
        return jax.eval_shape(self.code, self.variables, None, batch).shape[1]

    # Compiled once a run, so that calls on many small arrays do not compile again.

    @functools.cached_property
    def _encode(self):
        return batches.over_split(self.code, self.mesh)

    @functools.cached_property
    def _reconstruct(self):
        return batches.over_split(self.reconstruction, self.mesh)

    @functools.cached_property
    def _bound(self):
        return batches.over_split(batches.own_bound(self.recipe.model), self.mesh)

    @functools.cached_property
    def _binarize(self):
        how = self.plan.data.binarization

        def each(variables, keys, batch):
            drawn = jax.vmap(lambda x, key: images.binarize(x, how, key))(batch.x, keys)
            return drawn.astype(jnp.uint8)

        return batches.over_split(each, self.mesh)

    @functools.cached_property
    def _prior_sample(self):
        draw = self.recipe.model.prior_sample
        compiled = jax.jit(lambda v, key, n, t: draw(v, key, n, None, t), static_argnums=2)
        return lambda key, n, temperature: compiled(self.variables, key, n, temperature)

    @functools.cached_property
    def _decode(self):
        decode = self.recipe.model.decode
        compiled = jax.jit(lambda v, z, y: decode(v, z, y).mean)
        return lambda z, y: compiled(self.variables, z, y)


def check_same_data(folder: RunFolder, data: Data) -> Data:
    """``data``, if they are to the byte those that the run was trained on; DataError if not.

    Other labels are an error where the model needs labels, and else a note.
    """
    record, spec = folder.record(), folder.spec()
    uses_labels = folder.plan().recipe(spec).classes is not None
    return same_data(record, spec, uses_labels, data, folder.path)


def same_data(
    record: Mapping[str, Any], spec: DataSpec | None, uses_labels: bool, data: Data, path: Path
) -> Data:
    """``check_same_data`` for what ``record`` says of the data; ``spec`` where that is known."""
    advice = "find the original data, or train anew"
    recorded = record["data_sha256"]
    if data.sha256 != recorded:
        raise DataError(
            f"the images of {data.origin} are not those of {path}: expected sha256 "
            f"{recorded[:12]}…, seen {data.sha256[:12]}…; {advice}"
        )
    if spec is not None and uses_labels and spec.names != data.spec.names:
        expected, seen = (labels.listed(names) or "none" for names in (spec.names, data.spec.names))
        raise DataError(
            f"the classes of {data.origin} are not those of {path}: expected {expected}, seen "
            f"{seen}; {advice}"
        )
    recorded = record.get("labels_sha256", data.labels_sha256)  # older runs do not say
    if data.labels_sha256 == recorded:
        return data
    if not uses_labels:
        return data._replace(notes=(*data.notes, f"the labels are not those of {path}"))
    hashes = (sha256[:12] + "…" if sha256 else "none" for sha256 in (recorded, data.labels_sha256))
    raise DataError(
        f"the labels of {data.origin} are not those of {path}: expected sha256 "
        f"{', seen '.join(hashes)}; {advice}"
    )


def example(spec: DataSpec) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    """The shapes of an image and of its label, if there are classes, as ``model.init`` wants."""
    label = None if spec.classes is None else jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.ShapeDtypeStruct((1, *spec.shape), jnp.float32), label


@typed
def load(path: str | Path, recipes: Mapping[str, zoo.Variant] = MappingProxyType({})) -> Run:
    """The model of a run folder, ready for use on this machine's devices.

    Of a finished run the parameters are those that summary.json names. What there is to know of
    others is said on stderr, and in the Run's ``remarks``.

    Args:
        path: the folder.
        recipes: those from outside, by name, where the run may be of one: {"my_vae": my_vae}.

    Raises:
        UsageError: not a run folder, or of a recipe that is neither known nor given.
        DataError: the folder is damaged.
    """
    run = opened(path, recipes=recipes)
    for remark in run.remarks:
        print(f"flaxvae: {remark}", file=sys.stderr)
    return run


def opened(
    path: str | Path,
    prior: bool = True,
    recipes: Mapping[str, zoo.Variant] = MappingProxyType({}),
) -> Run:
    """``load`` without a word; ``prior``: with the one that was fitted to a codebook's codes."""
    folder = RunFolder.open(path, recipes)
    plan, spec, recipe = folder.plan(), folder.spec(), folder.recipe()
    like = shapes(folder, recipe, *example(spec))
    found = restore(folder, like, plan.training)
    variables, remarks = found.variables, [found.remark]
    if prior and recipe.codes and recipe.codes.prior:
        fitted, remark = _fitted(folder, variables, recipe)
        variables, remarks = variables | fitted, [found.remark, remark]
    mesh = meshes.local()
    variables = meshes.put(variables, meshes.replicated(mesh))
    peak, said = folder.record()["peak"], tuple(filter(None, remarks))
    over = folder.finished() is not None
    return Run(folder, plan, spec, recipe, variables, peak, mesh, found.step, over, said)


def is_closed(folder: RunFolder) -> bool:
    """Whether of a run's training, which cannot go on, the model alone is kept."""
    with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        return checkpoints.closed()


def shapes(folder: RunFolder, recipe: Recipe, image: Any, label: Any) -> Variables:
    """The variables of a folder's recipe, as shapes. Raises DataError if there can be none."""
    try:
        return jax.eval_shape(recipe.model.init, jax.random.key(0), image, label)
    except (ValueError, TypeError, ArithmeticError) as error:  # sizes that no array has
        reason = str(error).partition("\n")[0]
        raise records.damaged(folder.path / "run.json", reason) from None


def prior_folder(folder: RunFolder, variables: Variables) -> RunFolder | None:
    """The folder of the prior over a run's codes, if one was fitted to these very parameters."""
    path = folder.path / "prior"
    if not (path / "run.json").exists():
        return None
    found = RunFolder.open(path, folder.recipes)
    found.goes_on = command("flaxvae", "fit-prior", folder.path, *outside.flag(folder.recipes))
    same = found.record()["model_sha256"] == digest(jax.device_get(variables["params"]))
    return found if same else None


def _fitted(folder: RunFolder, variables: Variables, recipe: Recipe) -> tuple[Variables, str]:
    """The prior over a run's codes, if one was fitted to these, and what to know of it."""
    path = folder.path / "prior"
    if not path.is_dir():
        return {}, ""
    fitted = prior_folder(folder, variables)
    if fitted is None:
        return {}, f"{path} is not of these parameters, and not in use"
    if fitted.finished() is None:
        return {}, f"{path} is not finished, and not in use; `{fitted.goes_on}` goes on"
    assert recipe.codes is not None and recipe.codes.prior is not None
    grid = jax.ShapeDtypeStruct((1, *recipe.codes.grid), jnp.float32)
    like = shapes(fitted, recipe.codes.prior, grid, None)
    found = restore(fitted, like, fitted.plan().training)
    return {"prior": found.variables["params"]}, found.remark
