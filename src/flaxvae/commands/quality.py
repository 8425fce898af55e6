"""flaxvae quality runs/latest"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from flaxvae.declared import Positive, Seed, typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def quality(
    run: RunArgument = LATEST,
    *,
    half: Positive | None = None,
    network: Literal["classifier", "random"] | None = None,
    k: Positive = 5,
    seed: Seed = 0,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Measure how close samples are to test images, beside how close other test images are.

    Fréchet distance, precision, recall, density, coverage, and the balance of the classes, of the
    model's own prior and of a fitted one. Two halves of the test images say what perfect samples
    would score. The numbers are also written to quality.json in the run, or, if options are given,
    to a file named after them. They are no FID: they compare between runs on the same data only.

    Args:
        run: Run folder.
        half: Test images in a half, and as many samples; by default 2500, or half of the images if
            there are fewer.
        network: Whose features are compared: a classifier of the training images, which is trained
            once for all runs on these data, or a random convolutional network; by default the
            latter where there are no labels.
        k: The neighbour that balls around images reach to, for precision, recall, density and
            coverage.
        seed: Determines the halves and the samples.
    """
    from flaxvae.commands import shared
    from flaxvae.report import quality as report
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs import quality as sampled
    from flaxvae.runs.folder import write_json
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    with contextlib.ExitStack() as after, Terminal() as terminal:
        data = loaded.data(place, terminal.watch("decoding pictures"))
        options: dict[str, Any] = {"half": half, "network": network, "k": k, "seed": seed}
        found = sampled.assess(loaded, data, **options, stages=terminal.watch)
        facts = report.facts(loaded, found)
        with shared.unless_unwritable(after):
            path = shared.target(loaded, "quality.json", None, quality, **options)
            about = {"data": loaded.spec.name, "k": k, "seed": seed}
            write_json(path, about | shared.step(loaded) | report.as_json(found))
            facts["written"] = relative(path)
        terminal.table(report.lines(found))
        if balance := report.classes(found, loaded.spec.names):
            terminal.table(balance)
        terminal.summary(facts, [])
        if loaded.unusable is not None:
            terminal.note(f"Without the fitted prior: {loaded.unusable}.")
