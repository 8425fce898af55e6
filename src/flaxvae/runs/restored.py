"""Which variables a reader of a run gets.

summary.json of a finished training has the sha256 of the variables that its numbers belong to; no
others are returned. For an unfinished one they are those of the newest good checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from flaxvae.core import Variables
from flaxvae.errors import DataError
from flaxvae.runs import contents
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.folder import RunFolder
from flaxvae.settings import TrainSettings


class Restored(NamedTuple):
    """What a training has saved so far."""

    variables: Variables  # NumPy
    step: int
    remark: str  # what they are and why, unless final and from the newest checkpoint


def digests(variables: Variables) -> dict[str, str]:
    """The digests in summary.json of the variables that its numbers belong to."""
    variables = jax.device_get(variables)
    return {
        "parameters_sha256": contents.digest(variables["params"]),
        "variables_sha256": contents.digest(variables),
    }


def named(summary: Mapping[str, Any]) -> dict[str, str]:
    """The ``digests`` that a summary.json has; an older flaxvae's has fewer."""
    return {k: v for k, v in summary.items() if k in ("parameters_sha256", "variables_sha256")}


def restore(folder: RunFolder, like: Variables, settings: TrainSettings) -> Restored:
    """The variables of a run; ``like`` has their shapes.

    Raises:
        DataError: no checkpoint restores, or the run is finished and none has the variables of
            its summary.json.
    """
    if not folder.checkpoints.is_dir():
        raise DataError(f"{folder.path} has no checkpoints: expected a run that has started")
    summary, intact = folder.finished(), False
    passed: list[str] = []
    model = contents.model_part(like, settings.ema is not None, settings.patience is not None)
    owners = folder.digests()
    with Checkpoints(folder.checkpoints, read_only=True, owners=owners) as checkpoints:
        for step, parts, why in checkpoints.each({"model": model}):
            if parts is not None:
                variables = contents.final(parts["model"])
                if summary is None or named(summary).items() <= digests(variables).items():
                    return Restored(variables, step, _remark(folder, summary, step, passed))
                intact, why = True, "not the parameters of summary.json"
            why = why.removeprefix(f"{folder.checkpoints / str(step)} ").partition(": expected")[0]
            passed.append(f"checkpoint {step}: {why}")
    if not passed:
        left = "all checkpoints are damaged" if [*folder.checkpoints.iterdir()] else "none is there"
        passed, intact = [left], False
    wanted = "the parameters of summary.json" if summary else "a checkpoint that restores"
    again = f"repeat the steps since with `{folder.resuming}`" if intact else "train again"
    raise DataError(
        f"{folder.checkpoints}: {'; '.join(passed)}: expected {wanted}; put back an intact copy, "
        f"or {again}"
    )


def _remark(
    folder: RunFolder, summary: Mapping[str, Any] | None, step: int, passed: list[str]
) -> str:
    if summary is not None and not passed:
        return ""
    seen = [] if summary is not None else ["not finished"]
    what = "which has the parameters of summary.json" if summary else "the newest one"
    return f"{folder.path}: {'; '.join(seen + passed)}; this is step {step}, {what}"
