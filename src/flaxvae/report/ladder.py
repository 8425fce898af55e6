"""The bounds of ``analysis.likelihood`` as a table of 80 columns, and what they mean in words."""

from __future__ import annotations

from collections.abc import Sequence

from flaxvae.analysis.annealed import Start
from flaxvae.analysis.likelihood import Ladder, Mean, Rung
from flaxvae.errors import counted
from flaxvae.recipe import Recipe
from flaxvae.report.words import CROSS_ENTROPY


def _name(rung: Rung, temperatures: int) -> str:
    return {
        "elbo": "ELBO",
        "refined": "q optimised for each image",
        "full_covariance": "q with full covariance",
        "importance_weighted": f"importance, k = {rung.draws:,}" if rung.draws else "",
        "annealed": f"annealed, {temperatures:,} steps",
        "exact": "exact, all codes",
    }[rung.method]


def table(ladder: Ladder, temperatures: int) -> Sequence[str]:
    """A heading, and a line for each bound, the loosest kinds first."""
    bits = any(rung.bits_per_dim is not None for rung in ladder.rungs)
    heading = (
        f"{'lower bound on log p(x)':<27}{'nats':>9}{'±':>7}{'gain':>9}{'±':>7}{'effective':>11}"
    )
    lines = [heading + (f"{'bits/dim':>9}" if bits else "")]
    for rung in ladder.rungs:
        gain = rung.above_elbo
        line = f"{_name(rung, temperatures):<26} {_nats(rung.bound.nats):>8}"
        line += f" {_error(rung.bound):>6}"
        if rung.method == "elbo":
            line += " " * 16
        else:
            line += f" {_nats(gain.nats):>8} {_error(gain):>6}"
        line += f"{'':>11}" if rung.effective is None else f"{rung.effective:>11,.1f}"
        line += "" if rung.bits_per_dim is None else f"{rung.bits_per_dim:>9.4f}"
        lines.append(line.rstrip())
    return lines


def _nats(value: float) -> str:
    """Two decimals, or of large numbers one, for columns have no more room."""
    return f"{value:.2f}" if abs(value) < 10_000 else f"{value:.1f}"


def _error(mean: Mean) -> str:
    if mean.standard_error is None:
        return ""
    return (
        f"{mean.standard_error:.2f}"
        if mean.standard_error < 1000
        else (f"{mean.standard_error:.0f}")
    )


def _said(mean: Mean) -> str:
    error = f" ± {_error(mean)}" if _error(mean) else ""
    return f"{mean.nats:.2f}{error} nats"


def facts(ladder: Ladder, recipe: Recipe, chains: int, start: Start, split: str) -> dict[str, str]:
    """What the numbers are of, and what follows from them."""
    one = recipe.data.example
    found = {f"{split} data": f"{counted(ladder.images, one)}, {recipe.data.name}"}
    if (amortization := ladder.amortization_gap) is not None:
        assert ladder.approximation_gap is not None
        found["amortization"] = f"{_said(amortization)}: what an encoder for all {one}s costs"
        found["approximation"] = (
            f"{_said(ladder.approximation_gap)} or more: what the family of q costs"
        )
    if ladder.acceptance is not None:
        found["annealing"] = (
            f"{counted(chains, 'chain')} for each {one} from the {start}, "
            f"{100 * ladder.acceptance:.0f} % of moves accepted"
        )
    if (own := ladder.model_images) is not None:
        found["bracket"] = (
            f"{counted(own.images, one)} made by the model: log p(x) is {own.lower.nats:.2f} nats "
            f"from below and {own.upper.nats:.2f} from above, {_said(own.apart)} apart"
        )
    if ladder.left_out:
        found["left out"] = "; ".join(ladder.left_out)
    given = "p(x|y), given the label" if recipe.classes is not None else "p(x)"
    found["units"] = f"nats per {one}, of log {given}; gain: above the ELBO"
    if ladder.log_px == "cross_entropy":
        found["units"] += f"; {CROSS_ENTROPY}"
    if any(rung.effective is not None for rung in ladder.rungs):
        found["effective"] = "sample size: how many draws or chains share the weight"
    found["±"] = f"standard error over {one}s"
    return found
