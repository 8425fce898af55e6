"""flaxvae eval runs/latest --k 5000"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from flaxvae import declared
from flaxvae.declared import Count, Positive, Seed, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def evaluate(
    run: RunArgument = LATEST,
    *,
    k: Count = 0,
    samples: Positive = 1,
    split: Literal["test", "validation"] = "test",
    images: Positive | None = None,
    seed: Seed = 0,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Evaluate held-out images: ELBO and its terms, squared error, and with --k a tighter bound.

    The numbers are also written to evaluation.json in the run, or, if options are given, to a file
    named after them: evaluation-k-500.json.

    Args:
        run: Run folder.
        k: Importance samples per image, for a bound that approaches log p(x) as their number grows
            (5000 in the papers; for grey pixels under a Bernoulli, not a density); 0: none.
        samples: Draws of z per image for the ELBO.
        split: Which images to use.
        images: Use only the first this many.
        seed: Determines the draws.
    """
    import numpy as np

    from flaxvae.analysis.evaluation import UNITS
    from flaxvae.commands import shared
    from flaxvae.data.dataset import taken
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import numbers, page_again, relative
    from flaxvae.runs.folder import write_json
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    drawn = {"samples": samples != 1, "seed": seed != 0}
    if any(drawn.values()) and not loaded.recipe.has_bound:
        flags = " and ".join(declared.flag(name) for name in drawn if drawn[name])
        raise UsageError(
            f"{flags} without effect: model {loaded.plan.model} draws nothing; leave it out"
        )
    data = loaded.data(place)
    chosen = data.test if split == "test" else data.validation
    if chosen is None:
        raise UsageError("--split validation: the run has no validation images; use test")
    if images is not None:
        if images > len(chosen.x):
            raise UsageError(f"--images {images}: expected 1 to {len(chosen.x)}")
        chosen = taken(chosen, np.arange(images))
    what = "importance samples" if k else "evaluating"
    with contextlib.ExitStack() as after, Terminal() as terminal:
        found = loaded.evaluate(chosen, k=k, samples=samples, seed=seed, watch=terminal.watch(what))
        options: dict[str, Any] = {"k": k, "samples": samples, "split": split, "images": images}
        facts, again = numbers(loaded, found, split), []
        with shared.unless_unwritable(after):
            path = shared.target(loaded, "evaluation.json", None, evaluate, **options, seed=seed)
            about = {"split": split, "seed": seed, "samples": samples, "data": loaded.spec.name}
            write_json(path, about | shared.step(loaded) | found.as_json() | {"units": UNITS})
            facts["written"] = relative(path)
            if k and split == "test" and images is None and loaded.finished:
                again = page_again(loaded)
        terminal.summary(facts, again)
