"""The live part of a run's page: its own decoder and encoder, run by the reader's browser.

``section`` traces the model (``functions``), packs graphs and weights (``packing``) beside test
images with their codes (``facts``), and adds the scripts: ``engine.js`` executes graphs, with large
products by ``product.js``; ``model.js`` has it in a Web Worker; ``explorer.js`` is what one sees
and moves. When the page opens, it compares itself with JAX on probes, and says by how much it
differs.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import jax
import numpy as np

from flaxvae.errors import counted
from flaxvae.export import programs
from flaxvae.report.explorer import facts, packing, weights
from flaxvae.report.explorer.functions import Functions, trace
from flaxvae.report.explorer.packing import Packed
from flaxvae.report.html.document import Html, Section, data, tag
from flaxvae.report.shown import Subject

SCRIPTS = "product.js", "engine.js", "model.js", "explorer.js"
DECODER = 2_000_000  # numbers in a decoder that a page holds, at most
WEIGHTS = 6_000_000  # numbers in all of its graphs


def section(of: Subject) -> Section | None:
    """The explorer of a run; None for a table, whose rows are no images.

    Weights are stored in as few bytes as keep the page close to JAX (``weights``). A decoder of
    more than DECODER numbers is replaced by a grid of images decoded now, an encoder that makes the
    page too large is left out; the page says so.
    """
    run = of.run
    if run.spec.kind == "table":
        return None
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables)):
        return _nothing("weights of the model are not finite")
    traced: Functions | None
    traced = trace(programs.native(run), run.variables, run.fitted)
    said: dict[str, Any] = {}
    if "decode" not in traced.graphs:
        said["instead"] = f"Its decoder does not run in a page: {traced.missing['decode']}."
        traced = None
    elif (size := packing.weights(traced.graphs["decode"])) > DECODER:
        said["instead"] = (
            f"Its decoder has {counted(size, 'weight')}, more than the {DECODER:,} that a page "
            "holds."
        )
        traced = None
    if traced is None and run.recipe.codes is not None:
        return Section("explorer", "Explorer", tag("p", said["instead"]))
    if traced is not None:
        traced = _fitting(traced)
    try:
        found = facts.of(of, traced)
    except FloatingPointError as error:
        return _nothing(str(error))
    said |= found.said
    if traced is None:
        packed = packing.pack({}, found.arrays)
    else:
        labels = None
        if run.recipe.classes is not None:
            labels = np.asarray(said["labels"], np.int32)
        forms, said["weights"] = weights.choose(traced, found.arrays, labels)
        packed = packing.pack(traced.graphs, found.arrays, forms)
    scripts = "\n".join(map(_own, SCRIPTS))
    assembles = traced is not None and _convolves(traced)
    style = _own("explorer.css")
    return Section("explorer", "Explorer", _body(said, packed), style, scripts, assembles)


def _nothing(why: str) -> Section:
    return Section("explorer", "Explorer", tag("p", f"There is nothing to explore: {why}."))


def _body(said: dict[str, Any], packed: Packed) -> Html:
    text = Html(packing.text(packed.compressed()))
    inside = [
        tag("div", id="explorer-live"),
        tag("noscript", tag("p", "Moving through the latent space needs JavaScript.")),
        data(said | {"packed": packed.described}, id="explorer-facts"),
        tag("script", text, type="text/plain", id="explorer-data"),
    ]
    return Html("".join(inside))


def _convolves(found: Functions) -> bool:
    """Whether there are convolutions, for which ``engine.js`` may compile ``product.js``."""
    return any(op.name == "conv_general_dilated" for g in found.graphs.values() for op in g.ops)


def _fitting(found: Functions) -> Functions:
    """Without the encoder, if its weights would make the page too large."""
    constants = [a for one in found.graphs.values() for a in one.constants.values()]
    if sum({packing.key(array): array.size for array in constants}.values()) <= WEIGHTS:
        return found
    why = f"the page would hold more than {WEIGHTS:,} weights"
    kept = {name: g for name, g in found.graphs.items() if name not in ("look", "bound")}
    return Functions(kept, found.missing | {"look": why, "bound": why})


@functools.cache
def _own(name: str) -> str:
    """The text of one of the files beside this one."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
