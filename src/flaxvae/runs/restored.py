"""Which variables whoever reads a run gets: those of its summary.json, or it is told which others.

summary.json of a training that is over has the sha256 of all variables that its numbers are of;
no others are handed out. Of one that is not over they are those of its newest good checkpoint.
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
    """What a training has left so far."""

    variables: Variables  # NumPy
    step: int
    remark: str  # which others than the finished ones of the newest checkpoint they are, and why


def digests(variables: Variables) -> dict[str, str]:
    """What summary.json says of the variables that its numbers are of."""
    variables = jax.device_get(variables)
    return {
        "parameters_sha256": contents.digest(variables["params"]),
        "variables_sha256": contents.digest(variables),
    }


def named(summary: Mapping[str, Any]) -> dict[str, str]:
    """``digests`` as far as a summary.json has them; an earlier flaxvae's has fewer."""
    return {k: v for k, v in summary.items() if k in ("parameters_sha256", "variables_sha256")}


def restore(folder: RunFolder, like: Variables, settings: TrainSettings) -> Restored:
    """The variables of a run, of which ``like`` has the shapes.

    Raises:
        DataError: a finished run's, but no checkpoint has the variables of its summary.json; or
            none restores.
    """
    if not folder.checkpoints.is_dir():
        raise DataError(f"{folder.path} has no checkpoints: expected a run that has begun")
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
            passed.append(f"checkpoint {step}: {why}")
    if not passed:
        left = "all checkpoints are damaged" if [*folder.checkpoints.iterdir()] else "none is there"
        passed, intact = [left], False
    wanted = "the parameters of summary.json" if summary else "a checkpoint that restores"
    again = f"`{folder.goes_on}` does the steps since again" if intact else "train again"
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
    what = "where the parameters of summary.json are" if summary else "the newest that there is"
    return f"{folder.path}: {'; '.join(seen + passed)}; this is step {step}, {what}"
