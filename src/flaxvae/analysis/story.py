"""What a training's history says: how its losses fell, and whether validation images lost again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Story(NamedTuple):
    """What the rows of metrics.jsonl say; the loss is -ELBO, or -log p(x|z) of an autoencoder."""

    epochs: int
    steps: int
    fall: float | None  # of the training loss, from the first epoch to the last
    late: float | None  # how much of its fall since it was highest was in the last quarter
    swings: float | None  # of the validation loss in the last half of epochs: its average rise or
    # fall from one to the next, whichever is less, over all that it fell
    best_epoch: int | None  # of the validation loss
    lost: float | None  # nats of the validation loss since then, but for those that training lost
    noise: float | None = None  # nats of what `swings` is a part, of enough epochs

    @property
    def last_quarter(self) -> str:
        """ "the last 5 of 20 epochs"."""
        count = max(self.epochs // 4, 1)
        return (
            f"the last {count} of {self.epochs} epochs"
            if count > 1
            else (f"the last of {self.epochs} epochs")
        )


EPOCHS = 10  # of the last half, for its swings to be the noise of the loss


def story(rows: Sequence[Mapping[str, Any]]) -> Story | None:
    """What the rows of a training's history say; None without any."""
    if not rows:
        return None

    def losses(of: str) -> np.ndarray:
        bound = [row.get(f"{of}_elbo") for row in rows]
        if all(value is not None for value in bound):
            return -np.array(bound, float)
        found = [row.get(f"{of}_reconstruction") for row in rows]
        return np.array([np.nan if value is None else value for value in found])

    training, held = losses("train"), losses("validation")
    quarter = max(len(rows) // 4, 1)
    fall = late = swings = best = lost = noise = None
    if len(rows) > 1 and np.isfinite(training).all():
        fall = float(training[0] - training[-1])
        highest = float(training.max() - training[-1])  # it may have risen before
        if fall > 0 and len(rows) > 2:  # of two epochs all is in the last
            late = float(training[-1 - quarter] - training[-1]) / highest
    if np.isfinite(held).all():
        least = int(held.argmin())
        # Under a large beta both may rise, for this is not the loss: then it is no overfitting.
        both = max(float(training[-1] - training[least]), 0.0)
        best, lost = rows[least]["epoch"], max(float(held[-1] - held[least]) - both, 0.0)
        half = np.diff(held[max(len(held) // 2 - 1, 0) :])
        if len(half) > 1 and held[0] > held[least]:
            shaken = min(np.maximum(half, 0).mean(), np.maximum(-half, 0).mean())
            swings = float(shaken / (held[0] - held[least]))
            noise = float(shaken) if len(half) >= EPOCHS else None
    last = rows[-1]
    return Story(last["epoch"], last["step"], fall, late, swings, best, lost, noise)
