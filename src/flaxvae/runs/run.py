"""A trained model from its folder: ``flaxvae.load("runs/latest")``."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae import lookup, outside
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.analysis.fitted_prior import FittedPrior
from flaxvae.core import Variables
from flaxvae.data import labels
from flaxvae.data.columns import Columns
from flaxvae.data.pipeline import Data, Split
from flaxvae.declared import Positive, Seed, typed
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, command, visible
from flaxvae.plan import Plan
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.runs import diagnosed, fitted, places, quality, reading, records
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.contents import digest
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.gallery import Gallery, gallery
from flaxvae.runs.restored import restore
from flaxvae.settings import Place
from flaxvae.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(Trained):
    """A trained model and the folder it came from; ``Trained`` documents what it can do.

    Where that takes images, a Run takes the path of a folder or a file of them as well.
    """

    _: dataclasses.KW_ONLY
    folder: RunFolder
    plan: Plan
    step: int = 0  # of the checkpoint that the variables come from
    finished: bool = True
    remarks: tuple[str, ...] = ()  # what is unusual about the variables
    loaded: Data | None = None  # its data, if they are in memory
    unusable: DataError | None = None  # why the fitted prior in its folder is not to be used

    def __post_init__(self) -> None:
        object.__setattr__(self, "binarization", self.plan.data.binarization)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The columns of metrics.jsonl, one row per epoch; nan where an epoch lacks a number."""
        rows = self.folder.history()
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}

    @property
    def summary(self) -> Evaluation | None:
        """The numbers of summary.json, on test images; None if training is not finished."""
        summary = self.folder.finished()
        return Evaluation.from_json(summary["test"]) if summary else None

    def figures(self) -> Gallery:
        """The figures in the run's folder, for a notebook. Raises DataError if there are none."""
        return gallery(self.folder.figures)

    def data(self, place: Place = Place(), watch: reading.Watch | None = None) -> Data:
        """The run's own data, loaded again, from ``place`` if they have moved.

        ``watch`` is told how many pictures are decoded, where they are not kept decoded.

        Raises DataError if they are not found, or have changed.
        """
        if self.loaded is not None and place == Place():
            return self.loaded
        check = functools.partial(check_same_data, self.folder)
        return places.find(self.plan.data, self.folder.record(), check, place, watch)[0]

    @typed
    def diagnose(
        self,
        *,
        images: Positive = diagnosed.IMAGES,
        seed: Seed = 0,
        place: Place = Place(),
        watch: reading.Watch | None = None,
    ) -> diagnosed.Diagnosis:
        """Why it is not better: numbers, and sentences with the flags that help.

        ``print(run.diagnose())`` shows the sentences; ``measured`` has the numbers, in nats, as
        ``analysis.diagnosis`` defines them. Nothing is written.

        Args:
            images: how many test images and how many training images to use, taken at random; or
                all, if there are fewer.
            seed: decides the images and the draws.
            place: where the run's data are, if they have moved.
            watch: is told of progress.

        Raises:
            UsageError: fewer than two images.
            DataError: the data are not found, or have changed.
        """
        return diagnosed.diagnose(self, self.data(place), images, seed, watch)

    @typed
    def sample_quality(
        self,
        *,
        half: Positive | None = None,
        network: quality.Network | None = None,
        k: Positive = 5,
        cuts: Positive = quality.sample_quality.CUTS,
        seed: Seed = 0,
        place: Place = Place(),
        stages: Callable[[str], reading.Watch] | None = None,
    ) -> quality.SampleQuality:
        """How close samples are to test images: ``analysis.sample_quality`` has the numbers.

        Of the model's own prior, and of the fitted one if there is one. The classifier is trained
        the first time, and kept with other caches. Nothing is written to the run.

        Args:
            half: test images in a half, and samples; by default 2,500, or half of the images.
            network: whose features are compared, "classifier" or "random"; by default the latter
                where there are no labels.
            k: the neighbour that a ball around an image reaches to.
            cuts: how often test images are cut into halves, and samples drawn.
            seed: decides the halves and the samples.
            place: where the run's data are, if they have moved.
            stages: makes, of what is done, what is told of progress.

        Raises:
            UsageError: not of images, no prior to draw from, too few images, or no labels.
            DataError: the data are not found, or have changed.
        """
        options: dict[str, Any] = {"half": half, "network": network, "k": k, "cuts": cuts}
        return quality.assess(self, self.data(place), **options, seed=seed, stages=stages)

    def read(self, images: str | os.PathLike[str]) -> Split:
        """The images of a folder, a zip, a tar or a file, prepared as the run's own were.

        They have their labels, if any, and the names of their files. What there is to know of them
        is said on stderr.

        Raises:
            UsageError: of another shape than the run's, or without labels where it needs them.
            DataError: there is nothing that can be read as images.
        """
        found = reading.read(self, images)
        for note in found.notes:
            print(visible(f"flaxvae: {os.fspath(images)}: {note}"), file=sys.stderr)
        return found.split

    def split(self, x: Any, y: Any = None, what: str = "images") -> Split:
        """As of any ``Trained``; of a path, what ``read`` gives."""
        return super().split(self.read(x) if isinstance(x, str | os.PathLike) else x, y, what)

    def _facts(self) -> list[str]:
        facts = [f"{self.plan.model} on {super()._facts()[0]}", super()._facts()[1]]
        if (found := self.summary) is not None and found.elbo is not None:
            facts.append(f"test -ELBO {-found.elbo:.2f} nats")
        return [
            *facts,
            f"step {self.step}" + ", not finished" * (not self.finished),
            str(self.path),
        ]

    @property
    def _called(self) -> str:
        return f"model {self.plan.model}"

    def _prior(self, chosen: str | None) -> FittedPrior | None:
        if chosen != "own" and self.fitted is None and self.unusable is not None:
            raise DataError(f"{self.unusable}, or draw from the model's own with --prior own")
        return super()._prior(chosen)

    @property
    def _fit_one(self) -> str:
        fit = command("flaxvae", "fit-prior", self.path, *outside.flag(self.folder.recipes))
        return f"run `{fit}` first"

    @property
    def _unfitted(self) -> str:
        return (
            f"{self.path} has no prior yet: expected one over its codes; run "
            f"`{command('flaxvae', 'fit-prior', self.path, *outside.flag(self.folder.recipes))}` "
            "first"
        )


def check_same_data(folder: RunFolder, data: Data) -> Data:
    """``data``, if they are exactly those that the run was trained on; else raises DataError.

    Other labels are an error if the model needs labels, otherwise a note.
    """
    record, spec = folder.record(), folder.spec()
    uses_labels = folder.plan().recipe(spec).classes is not None
    return same_data(record, spec, uses_labels, data, folder.path)


def same_data(
    record: Mapping[str, Any], spec: DataSpec | None, uses_labels: bool, data: Data, path: Path
) -> Data:
    """``check_same_data`` against what ``record`` says of the data; ``spec`` if it is known."""
    advice = "find the original data, or train again"
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
    recorded = record.get("labels_sha256", data.labels_sha256)  # older runs lack it
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
    """The shapes of an image and, if there are classes, its label, as ``model.init`` needs."""
    label = None if spec.classes is None else jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.ShapeDtypeStruct((1, *spec.shape), jnp.float32), label


@typed
def load(path: str | Path, recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES) -> Run:
    """The model of a run folder, ready for use on this machine's devices.

    A finished run's parameters are those that summary.json names. If they are others, stderr and
    the Run's ``remarks`` say so.

    Args:
        path: the folder.
        recipes: recipes from outside, by name, if the run uses one: {"my_vae": my_vae}.

    Raises:
        UsageError: not a run folder, or its recipe is neither known nor given.
        DataError: the folder is damaged.
    """
    run = opened(path, recipes=recipes)
    for remark in run.remarks:
        print(f"flaxvae: {visible(remark)}", file=sys.stderr)
    return run


def opened(
    path: str | Path,
    prior: bool = True,
    recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES,
) -> Run:
    """``load`` without messages; ``prior``: include the one fitted to a codebook's codes."""
    folder = RunFolder.open(path, recipes)
    plan, spec, recipe = folder.plan(), folder.spec(), folder.recipe()
    like = shapes(folder, recipe, *example(spec))
    found = restore(folder, like, plan.training)
    variables, remarks = found.variables, [found.remark]
    if prior and recipe.codes and recipe.codes.prior:
        own, remark = _of_codes(folder, variables, recipe)
        variables, remarks = variables | own, [found.remark, remark]
    prior_of_z, unusable = fitted.of(folder.path, variables)
    mesh = meshes.local()
    variables = meshes.put(variables, meshes.replicated(mesh))
    return Run(
        recipe,
        variables,
        mesh=mesh,
        peak=folder.record()["peak"],
        signed=folder.record().get("signed", False),
        columns=Columns.from_json(columns) if (columns := folder.record().get("columns")) else None,
        folder=folder,
        plan=plan,
        step=found.step,
        finished=folder.finished() is not None,
        remarks=tuple(filter(None, remarks)),
        fitted=prior_of_z,
        unusable=unusable,
    )


def is_closed(folder: RunFolder) -> bool:
    """Whether only the model of a run was kept, so that training cannot be resumed."""
    with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        return checkpoints.closed()


def shapes(folder: RunFolder, recipe: Recipe, image: Any, label: Any) -> Variables:
    """The shapes of a recipe's variables. Raises DataError if they are impossible."""
    try:
        return jax.eval_shape(recipe.model.init, jax.random.key(0), image, label)
    except (ValueError, TypeError, ArithmeticError) as error:  # impossible sizes
        reason = str(error).partition("\n")[0]
        raise records.damaged(folder.path / "run.json", reason) from None


def prior_folder(folder: RunFolder, variables: Variables) -> RunFolder | None:
    """The folder of the prior over a run's codes, if it was fitted to exactly these parameters."""
    path = folder.path / "prior"
    if not (path / "run.json").exists():
        return None
    found = RunFolder.open(path, folder.recipes)
    found.resuming = command("flaxvae", "fit-prior", folder.path, *outside.flag(folder.recipes))
    same = found.record()["model_sha256"] == digest(jax.device_get(variables["params"]))
    return found if same else None


def _of_codes(folder: RunFolder, variables: Variables, recipe: Recipe) -> tuple[Variables, str]:
    """The prior over a run's codes, if it was fitted to these variables, and a remark on it."""
    path = folder.path / "prior"
    if not path.is_dir():
        return {}, ""
    prior = prior_folder(folder, variables)
    if prior is None:
        return {}, f"{path} was fitted to other parameters, so it is not used"
    if prior.finished() is None:
        return {}, f"{path} is not finished, so it is not used; resume with `{prior.resuming}`"
    assert recipe.codes is not None and recipe.codes.prior is not None
    grid = jax.ShapeDtypeStruct((1, *recipe.codes.grid), jnp.float32)
    like = shapes(prior, recipe.codes.prior, grid, None)
    found = restore(prior, like, prior.plan().training)
    return {"prior": found.variables["params"]}, found.remark
