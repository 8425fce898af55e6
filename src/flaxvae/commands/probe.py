"""flaxvae probe runs/latest"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from flaxvae.declared import Positive, Seed, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place

IMAGES = 10_000  # to learn from, by default


@typed
def probe(
    run: RunArgument = LATEST,
    *,
    images: Positive | None = None,
    seed: Seed = 0,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Measure how well classes can be read from the codes, beside as many principal components.

    A logistic regression, the five nearest neighbours and k-means clusters, on test images. The
    numbers are also written to probe.json in the run.

    Args:
        run: Run folder, whose data have labels.
        images: Learn from the first this many training images; by default 10,000.
        seed: Determines the clusters.
    """
    import numpy as np

    from flaxvae.analysis import probes
    from flaxvae.commands import shared
    from flaxvae.data import pipeline
    from flaxvae.data.dataset import taken
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.folder import write_json
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    data = loaded.data(place)
    if data.train.y is None or data.test.y is None:
        raise UsageError(
            f"{loaded.path} has no labels: {loaded.spec.name}; expected data with classes"
        )
    count = shared.upto("images", images, IMAGES, len(data.train.x), "training images")
    train = taken(data.train, np.arange(count))
    train = pipeline.binarized(train, data.binarization, fold=0)
    labels, truth = train.y, data.test.y
    assert labels is not None
    with contextlib.ExitStack() as after, Terminal() as terminal:
        learnt = loaded.encode(train, watch=terminal.watch("codes of training images"))
        tested = loaded.encode(data.test, watch=terminal.watch("codes of test images"))
        parts = probes.components(train.images(), data.test.images(), learnt.shape[1])
        found = {
            "codes": probes.probe(learnt, labels, tested, truth, seed),
            "principal components": probes.probe(parts[0], labels, parts[1], truth, seed),
        }
        chance = probes.commonest(labels, truth)
        lines = [f"{'':<22}{'units':>6}{'linear':>10}{'nearest':>10}{'clusters':>10}"]
        for name, one in found.items():
            accuracies = f"{100 * one.linear:>8.2f} %{100 * one.nearest:>8.2f} %"
            lines.append(f"{name:<22}{one.units:>6}{accuracies}{one.rand:>10.3f}")
        lines.append(f"{'the commonest class':<22}{'':>6}{100 * chance:>8.2f} %")
        terminal.table(lines)
        said = {
            "data": f"{len(truth):,} test images; learnt from {count:,} training images",
            "codes": f"{loaded.recipe.code} of {loaded.plan.model}",
            "clusters": "adjusted Rand index of k-means, as many as classes; 1: the classes",
        }
        with shared.unless_unwritable(after):
            path = shared.target(loaded, "probe.json", None, probe, images=images, seed=seed)
            about: dict[str, Any] = {"images": len(truth), "training_images": count, "seed": seed}
            about |= shared.step(loaded) | {"commonest_class": chance}
            numbers = {name.replace(" ", "_"): dataclasses.asdict(x) for name, x in found.items()}
            write_json(path, about | numbers)
            said["written"] = relative(path)
        terminal.summary(said, [])
