"""A trained model in hand: ``flaxvae.load("runs/latest")``."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae import lookup, outside
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.core import Variables
from flaxvae.data import labels
from flaxvae.data.pipeline import Data
from flaxvae.declared import typed
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, command
from flaxvae.plan import Plan
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.runs import places, records
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.contents import digest
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.gallery import Gallery, gallery
from flaxvae.runs.restored import restore
from flaxvae.settings import Place
from flaxvae.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(Trained):
    """A trained model and the folder that it came from; ``Trained`` says what it can do."""

    _: dataclasses.KW_ONLY
    folder: RunFolder
    plan: Plan
    step: int = 0  # of the checkpoint that the variables are of
    finished: bool = True
    remarks: tuple[str, ...] = ()  # what to know of the variables, if they are not as usual
    loaded: Data | None = None  # its data, where they are in memory

    def __post_init__(self) -> None:
        object.__setattr__(self, "binarization", self.plan.data.binarization)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The columns of metrics.jsonl, one row an epoch; nan where an epoch has no such number."""
        rows = self.folder.history()
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}

    @property
    def summary(self) -> Evaluation | None:
        """The numbers of summary.json, on test images; None of a training that is not over."""
        summary = self.folder.finished()
        return Evaluation.from_json(summary["test"]) if summary else None

    def figures(self) -> Gallery:
        """The figures in the run's folder, which a notebook shows. Raises DataError without any."""
        return gallery(self.folder.figures)

    def data(self, place: Place = Place()) -> Data:
        """The run's own data, loaded again, from ``place`` if they are elsewhere now.

        Raises DataError if they are not found, or have changed.
        """
        if self.loaded is not None and place == Place():
            return self.loaded
        check = functools.partial(check_same_data, self.folder)
        return places.find(self.plan.data, self.folder.record(), check, place)[0]

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

    @property
    def _unfitted(self) -> str:
        return (
            f"{self.path} has no prior yet: expected one over its codes; run "
            f"`{command('flaxvae', 'fit-prior', self.path, *outside.flag(self.folder.recipes))}` "
            "first"
        )


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
def load(path: str | Path, recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES) -> Run:
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
    recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES,
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
    return Run(
        recipe,
        variables,
        mesh=mesh,
        peak=folder.record()["peak"],
        signed=folder.record().get("signed", False),
        folder=folder,
        plan=plan,
        step=found.step,
        finished=folder.finished() is not None,
        remarks=tuple(filter(None, remarks)),
    )


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
