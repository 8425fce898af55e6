"""The numbers of a diagnosis, in two columns."""

from __future__ import annotations

import math

from flaxvae.analysis.aggregate_posterior import Bracket
from flaxvae.analysis.diagnosis import Measured
from flaxvae.analysis.symptoms import dimensions
from flaxvae.errors import counted
from flaxvae.report import words
from flaxvae.trained import Trained

MOST = 12  # dimensions whose KL is listed
_CALLED = {"aggregate": "aggregate q(z)", "coverage": "coverage"}  # in the table, if left out


def facts(run: Trained, found: Measured, split: str = "test") -> dict[str, str]:
    """The numbers of a diagnosis of images of ``split``, with units."""
    test = found.test
    assert test is not None
    said = {k: v for k, v in words.numbers(run, test, split).items() if k not in ("MSE", "±")}
    if found.train is not None and found.train.elbo is not None:
        error = found.train.elbo_standard_error
        said[f"training {run.spec.example}s"] = (
            f"{-found.train.elbo:.2f} ± {error:.2f} nats, -ELBO of as many"
        )
    if (explained := found.explained) is not None:
        said["explained"] = (
            f"{100 * explained:.1f} % of the variance over {run.spec.example}s, by reconstructions"
        )
    said |= _latents(found) | _likelihood(run, found) | _training(found)
    return said | {f"no {_CALLED[what]}": why for what, why in found.left_out.items()}


def _latents(found: Measured) -> dict[str, str]:
    """What z says, and where it lies."""
    said, test, aggregate = {}, found.test, found.aggregate
    size, idle, _ = dimensions(found)
    if size and test is not None and len(test.kl_per_unit or ()) == size:
        largest = sorted(test.kl_per_unit or (), reverse=True)
        more = ", …" * (size > MOST)
        said["KL by dimension"] = (
            ", ".join(f"{nats:.2f}" for nats in largest[:MOST]) + f"{more}; {idle} below 0.01"
        )
    if found.own is not None and found.other is not None:
        apart = round(found.other - found.own, 2) + 0.0  # not -0.00
        said["z of another"] = f"{apart:.2f} nats more of -log p(x|z) than with its own"
    if aggregate is not None:
        limit = math.log(aggregate.images)
        said["I(x; z)"] = (
            f"{_between(aggregate.information)}; the first is at most log {aggregate.images:,} = "
            f"{limit:.2f}"
        )
        said["KL(q(z) || p(z))"] = _between(aggregate.marginal_kl)
        said["total correlation"] = _between(aggregate.total_correlation)
        if aggregate.holes is not None:
            said["holes"] = (
                f"{100 * aggregate.holes:.1f} % of the prior's draws lie where only 1 % of the "
                "posteriors' do"
            )
    if found.coverage is not None:
        half, most = (f"{100 * x:.0f} %" for x in (found.coverage.half, found.coverage.most))
        said["coverage"] = (
            f"intervals of 50 and 90 % of q(z|x) hold {half} and {most} of the z of "
            f"{counted(found.coverage.simulations, 'draw')} of x from the model"
        )
    return said


def _likelihood(run: Trained, found: Measured) -> dict[str, str]:
    """Whether p(x|z) is as sure as it may be."""
    calibration = found.calibration
    if calibration is None or run.recipe.log_px == "cross_entropy":
        return {}
    said = {
        "deviation": f"{calibration.spread:.4g} predicted, {calibration.residual:.4g} seen "
        f"{words.per_value(run)}"
    }
    worst = calibration.worst
    if worst is not None and run.spec.binary:
        table = ", ".join(f"{b.predicted:.2f} {b.seen:.2f}" for b in calibration.bins)
        said["calibration"] = f"predicted and seen probabilities: {table}"
    return said


def _training(found: Measured) -> dict[str, str]:
    """What the loss's history says."""
    story = found.story
    if story is None:
        return {}
    said = f"{counted(story.epochs, 'epoch')}, {counted(story.steps, 'step')}"
    if story.late is not None:
        said += f"; {100 * story.late:.1f} % of the loss's fall in {story.last_quarter}"
    if story.best_epoch is not None and story.lost is not None:
        said += (
            f"; best validation after epoch {story.best_epoch}, {story.lost:.2f} nats lost since"
        )
    return {"history": said}


def _between(bracket: Bracket) -> str:
    return f"{bracket.low:.2f} to {bracket.high:.2f} nats"
