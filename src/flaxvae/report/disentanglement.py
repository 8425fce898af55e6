"""Disentanglement in a terminal, and the picture of the mutual information of units and factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae.analysis.disentanglement import codes, information
from flaxvae.analysis.disentanglement.inputs import silenced
from flaxvae.analysis.disentanglement.scores import Disentanglement
from flaxvae.errors import counted
from flaxvae.report.page import GREY, page
from flaxvae.report.shown import Subject
from flaxvae.report.words import heading
from flaxvae.runs.factors import Factors
from flaxvae.runs.run import Run

Array = np.ndarray
MOST = 40  # units that a picture has rows for
CELL = (150, 46)  # pixels
UNITS = "nats: information and entropy; the others have none"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def facts(about: Mapping[str, Any], known: Factors, found: Disentanglement) -> dict[str, str]:
    """What was measured, and the scores of the whole code, as text.

    ``about`` is what disentanglement.json says of the measuring.
    """
    counts = (len(np.unique(column)) for column in known.values.T)
    factors = [f"{name} {count}" for name, count in zip(known.names, counts, strict=True)]
    without = f"; not counted: {', '.join(about['without'])}" * bool(about["without"])
    chance = f"by chance {1 / len(factors):.2f}"
    return {
        "data": f"{about['data']}: {counted(found.images, 'image')}",
        "codes": f"{about['codes']}, {sum(found.used)} of {counted(len(found.used), 'unit')} used",
        "factors": f"{', '.join(factors)} values{without}",
        "method": f"mutual information in {about['bins']} bins; groups that share a factor are "
        f"{'of' if about['groups'] == 'new images' else 'drawn from'} {about['groups']}",
        "BetaVAE": f"{_number(found.beta_vae)}, the fixed factor named linearly; {chance}",
        "FactorVAE": f"{_number(found.factor_vae)}, the same by the stillest unit; {chance}",
        "MIG": f"{_number(found.mig)}, gap in mutual information",
        "SAP": f"{_number(found.sap)}, gap in prediction from one unit",
        "DCI": f"{_number(found.dci_disentanglement)}, completeness "
        f"{_number(found.dci_completeness)}, informativeness {_number(found.dci_informativeness)}",
        "modularity": f"{_number(found.modularity)}, units know one factor alone",
        "explicitness": f"{_number(found.explicitness)}, area under the curve; by chance 0.50",
        "IRS": f"{_number(found.irs)}, units move with one factor alone",
    }


def lines(found: Disentanglement) -> list[str]:
    """A table of what MIG, SAP, DCI and explicitness say of each factor; the unit is MIG's best."""
    best = np.asarray(found.information).argmax(0)
    width = max(map(len, ("by factor", *found.factors)))
    heads = ("unit", "MIG", "SAP", "complete", "accuracy", "(chance)", "explicit")
    sizes = [max(len(head), 6) for head in heads]

    def line(name: str, cells: Sequence[str]) -> str:
        ends = (cell.rjust(size) for cell, size in zip(cells, sizes, strict=True))
        return "  ".join([name.ljust(width), *ends])

    table = [line("by factor", heads)]
    columns = (
        found.mig_of_factors,
        found.sap_of_factors,
        found.completeness_of_factors,
        found.accuracy_of_factors,
        found.chance_of_factors,
        found.explicitness_of_factors,
    )
    for name, unit, *row in zip(found.factors, best, *columns, strict=True):
        table.append(line(name, [f"z{unit + 1}", *map(_number, row)]))
    return table


class Matrix(NamedTuple):
    """The mutual information of units and factors."""

    parts: Array  # [D, F] of the factor's entropy, 0 to 1
    units: Sequence[str]  # [D]
    factors: Sequence[str]  # [F]
    title: str


def matrix(
    run: Run,
    nats: Array,
    entropy: Array,
    used: Array,
    factors: Sequence[str],
    what: str,
    bins: int = information.BINS,
) -> Matrix:
    """I(z_d; v_f) [D, F] as part of H(v_f); of many units those that know most of any factor."""
    parts = nats / np.where(entropy > 0, entropy, 1)
    shown = np.sort(np.argsort(-parts.max(1), kind="stable")[:MOST])
    names = [f"z{d + 1}" + ", unused" * (not used[d]) for d in shown]
    rest = f", {len(shown)} of {len(parts)} units" * (len(shown) < len(parts))
    title = f"What each unit knows of each factor: mutual information / entropy{rest}"
    said = f"{what} in {bins} bins; {heading(run)}"
    return Matrix(parts[shown], names, factors, f"{title}\n{said}")


def of_test_images(of: Subject) -> Matrix:
    """The matrix of the posterior means of the test images."""
    run, factors = of.run, of.test.factors
    assert factors is not None
    z = run.encode(of.test)
    used = codes.used(run.recipe, z)
    nats = information.information(silenced(z, used), factors)
    names = [name for name, _ in run.spec.factors]
    entropy = information.entropy(factors)
    return matrix(run, nats, entropy, used, names, run.recipe.code)


def draw_matrix(
    path: Path, parts: Array, units: Sequence[str], factors: Sequence[str], *, title: str
) -> Path:
    """A cell for each unit and factor, the darker the more the unit knows, with its number."""
    rows, columns = parts.shape
    box = (0, 0, CELL[0] * columns, CELL[1] * rows)
    with page(path, title, [box]) as [ax]:
        ax.imshow(parts, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for (d, f), part in np.ndenumerate(parts):
            color = "white" if part > 0.5 else GREY
            ax.text(f, d, f"{part:.2f}", ha="center", va="center", size=7, color=color)
        ax.set_xticks(range(columns), factors)
        ax.set_yticks(range(rows), units)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return path
