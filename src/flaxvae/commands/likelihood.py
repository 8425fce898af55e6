"""flaxvae likelihood runs/latest"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from flaxvae.declared import Chains, Count, Draws, Positive, Seed, Simulated, Temperatures, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place

IMAGES = 100  # by default


@typed
def likelihood(
    run: RunArgument = LATEST,
    *,
    k: Draws = (10, 100, 1000, 5000),
    temperatures: Temperatures = 100,
    chains: Chains = 16,
    start: Literal["encoder", "prior"] = "encoder",
    fit_steps: Count = 500,
    simulated: Simulated = 20,
    split: Literal["test", "validation"] = "test",
    images: Positive | None = None,
    seed: Seed = 0,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Measure log p(x): bounds from the ELBO to annealed importance sampling, and the gaps between.

    The numbers are also written to likelihood.json in the run, or, if options are given, to a file
    named after them.

    Args:
        run: Run folder.
        k: Importance samples per image, one number or several, for a bound each.
        temperatures: Steps of annealed importance sampling, each of 10 leapfrog steps of
            Hamiltonian Monte Carlo; the more, the tighter the bound; 0: none.
        chains: Chains of it for each image.
        start: Where they start: encoder, a Gaussian near q(z|x), or prior, which needs some ten
            times the temperatures, and depends on the encoder hardly at all.
        fit_steps: Steps of optimising q for each image, to split the gap between log p(x) and the
            ELBO in two: what the encoder costs, and what its family; 0: none.
        simulated: Images that the model makes itself, on which annealing bounds log p(x) from both
            sides; 0: none.
        split: Which images to use.
        images: Use only the first this many; by default 100.
        seed: Determines the draws.
    """
    import numpy as np

    from flaxvae.analysis.evaluation import UNITS
    from flaxvae.analysis.likelihood import check, ladder
    from flaxvae.commands import shared
    from flaxvae.data.dataset import taken
    from flaxvae.report.ladder import facts, table
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.folder import write_json
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    model = f"model {loaded.plan.model}"
    check(loaded.recipe, model)
    how: dict[str, Any] = {"temperatures": temperatures, "chains": chains, "start": start}
    how |= {"fit_steps": fit_steps, "simulated": simulated}
    if loaded.recipe.codes is not None:
        shared.unchanged(likelihood, f"{model} has discrete latents", **how)
    if not temperatures:
        none = {name: how[name] for name in ("chains", "start", "simulated")}
        shared.unchanged(likelihood, "--temperatures 0 leaves annealing out", **none)
    data = loaded.data(place)
    chosen = data.test if split == "test" else data.validation
    if chosen is None:
        raise UsageError("--split validation: the run has no validation images; use test")
    count = shared.upto("images", images, IMAGES, len(chosen.x))
    chosen = loaded.split(taken(chosen, np.arange(count)))
    with contextlib.ExitStack() as after, Terminal() as terminal:
        found = ladder(
            loaded.recipe,
            loaded.variables,
            chosen,
            k=k,
            **how,
            seed=seed,
            mesh=loaded.mesh,
            stages=terminal.watch,
        )
        terminal.table(table(found, temperatures))
        said = facts(found, loaded.recipe, chains, start, split)
        options = {"k": k, **how, "split": split, "images": images, "seed": seed}
        with shared.unless_unwritable(after):
            path = shared.target(loaded, "likelihood.json", None, likelihood, **options)
            about = {"split": split, "seed": seed, **how, "data": loaded.spec.name}
            write_json(path, about | shared.step(loaded) | found.as_json() | {"units": UNITS})
            said["written"] = relative(path)
        terminal.summary(said, [])
