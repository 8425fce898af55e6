"""What a run folder records when training begins and ends, and what follows the last epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from flaxvae.analysis.evaluation import UNITS, Evaluation
from flaxvae.core import Variables
from flaxvae.data import pipeline
from flaxvae.devices import mesh as meshes
from flaxvae.errors import Stopped
from flaxvae.runs import restored
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.training.observers import Watcher


def run_facts(data: pipeline.Data, parameters: int, mesh: Mesh) -> dict[str, Any]:
    """What run.json records besides the plan."""
    return {
        "data_spec": data.spec._asdict(),
        "data_origin": data.origin,
        "data_sha256": data.sha256,
        "labels_sha256": data.labels_sha256,
        "data_notes": list(data.notes),
        "peak": data.peak,
        "signed": data.signed,
        "preprocessing": None if data.preprocessing is None else data.preprocessing.as_json(),
        "columns": None if data.columns is None else data.columns.as_json(),
        "parameters": parameters,
        "devices": meshes.describe(mesh),
        "units": UNITS,
    }


def run_summary(
    folder: RunFolder,
    data: pipeline.Data,
    variables: Variables,
    history: Sequence[Any],
    evaluation: Evaluation,
) -> dict[str, Any]:
    """What summary.json records of a finished run."""
    about = {"data": data.spec.name, "units": UNITS}
    return closing(folder, variables, history, evaluation.as_json()) | about


def closing(
    folder: RunFolder, variables: Variables, history: Sequence[Any], test: dict[str, Any]
) -> dict[str, Any]:
    """How far a training got, its variables' digests, and its numbers on test images."""
    last = history[-1] if history else {"epoch": 0, "step": 0}
    return {
        "epochs": last["epoch"],
        "step": last["step"],
        "test": test,
        **restored.digests(variables),
        "run": folder.digests()[0],
    }


def finish(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write summary.json, and remove all checkpoints but the newest."""
    write_json(folder.path / "summary.json", summary)
    with Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.keep_newest()


def stages(folder: RunFolder, watch: Watcher, heard: Sequence[int]) -> Callable[..., None]:
    """The watcher's ``stage`` for what follows training; raises Stopped after a signal."""

    def stage(what: str, done: int = 0, total: int = 0) -> None:
        if heard:
            after = f"stopped after training, which is saved, before {what}"
            raise Stopped(f"{after}; resume with `{folder.resuming}`", heard[0])
        watch.stage(what, done, total)

    return stage
