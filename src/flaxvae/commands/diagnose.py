"""flaxvae diagnose runs/latest"""

from __future__ import annotations

import contextlib

from flaxvae.declared import Positive, Seed, typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def diagnose(
    run: RunArgument = LATEST,
    *,
    images: Positive = 2000,
    seed: Seed = 0,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Say why a model is not better: what its latents, its decoder and its training show.

    It ends in plain sentences, each with the flag that helps. All numbers are also written to
    diagnosis.json in the run, or, if options are given, to a file named after them. Numbers of the
    aggregate posterior are two, between which the true one lies, but for noise.

    Args:
        run: Run folder.
        images: How many test images to use, and how many training images, taken at random; or all,
            if there are fewer.
        seed: Determines the images and the draws.
    """

    from flaxvae.analysis.evaluation import UNITS
    from flaxvae.commands import shared
    from flaxvae.report import findings
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import page_again, relative
    from flaxvae.runs import diagnosed
    from flaxvae.runs.folder import write_json
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    with contextlib.ExitStack() as after, Terminal() as terminal:
        data = loaded.data(place, terminal.watch("decoding pictures"))
        found = diagnosed.diagnose(loaded, data, images, seed, terminal.watch("looking"))
        facts = findings.facts(loaded, found.measured, found.split)
        again = []
        with shared.unless_unwritable(after):
            path = shared.target(loaded, diagnosed.FILE, None, diagnose, images=images, seed=seed)
            about = {
                "images": found.images,
                "split": found.split,
                "seed": seed,
                "data": loaded.spec.name,
            }
            said = [each._asdict() for each in found.judgements]
            numbers = {"judgements": said, "measured": found.measured.as_json(), "units": UNITS}
            write_json(path, about | shared.step(loaded) | numbers)
            facts["written"] = relative(path)
            again = page_again(loaded) if path.name == diagnosed.FILE else []
        terminal.summary(facts, [])
        for line in diagnosed.lines(found.judgements):
            terminal.note(line)
        if again:
            terminal.summary({}, again)
