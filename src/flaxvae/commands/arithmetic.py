"""flaxvae arithmetic runs/latest --attribute 7"""

from __future__ import annotations

import sys
from typing import Any

from flaxvae.declared import Count, Positive, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def arithmetic(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    attribute: str | None = None,
    having: str | None = None,
    lacking: str | None = None,
    against: tuple[str, ...] = (),
    strength: tuple[float, ...] = (-1.0, 0.0, 1.0, 2.0),
    analogy: tuple[Count, ...] = (),
    n: Positive | None = None,
    judge: bool = False,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> list[str]:
    """Draw images with an attribute added to their codes, a row for each strength; or a - b + c.

    The attribute's vector is the mean code of training images with it, less that of those without.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file; by default
            the test images. The flag may be left out: arithmetic RUN IMAGES.
        attribute: A label, which the images of that class have, or a factor: size, whose upper half
            of values has it, in the order that they are listed in, or size=2, which a factor
            without an order needs.
        having: Instead of an attribute by name: images with it, as for images.
        lacking: And images without it.
        against: Other attributes, one or several, whose vectors it is made orthogonal to.
        strength: How many times the vector is added, one number or several, a row for each.
        analogy: Instead of an attribute: numbers of three images, a b c, to decode a - b + c; by
            default 0 1 2, if there is no attribute.
        n: Show the first n images; by default 10, or all if there are fewer.
        judge: Also print how often the attribute changed, and how often others did that should have
            stayed: the label, and those of --against. Classifiers of the training images say so,
            which are trained once for all runs on these data.
        out: PNG to write; by default figures/arithmetic.png in the run, with the options in its
            name.
    """
    asked = [attribute is not None, having is not None or lacking is not None, bool(analogy)]
    if sum(asked) > 1:
        raise UsageError(
            "several things to add: expected one of --attribute NAME, --having DIR --lacking DIR, "
            "and --analogy A B C"
        )
    if (having is None) != (lacking is None) or (having is not None and having == lacking):
        raise UsageError(
            f"--having {having} --lacking {lacking}: expected two sets of images, with the "
            "attribute and without it"
        )
    import numpy as np

    from flaxvae.commands import shared
    from flaxvae.report import arithmetic as report
    from flaxvae.report import plots
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    if loaded.recipe.codes is not None:
        raise UsageError(
            f"model {loaded.plan.model} has discrete latents: expected continuous ones"
        )
    options: dict[str, Any] = {"images": images, "attribute": attribute, "having": having}
    options |= {"lacking": lacking, "against": against, "strength": strength}
    options |= {"analogy": analogy, "n": n}
    files = {
        name: value and value.rstrip("/").rpartition("/")[2]
        for name, value in options.items()
        if name in ("having", "lacking")
    }
    path = shared.target(loaded, "figures/arithmetic.png", out, arithmetic, **options | files)
    lines: list[str] = []
    with Terminal(sys.stderr) as terminal:
        split, _ = shared.images(loaded, images, place, terminal)
        if not any(asked[:2]):
            numbers = analogy or (0, 1, 2)
            none = {"against": against, "strength": strength, "n": n, "judge": judge}
            shared.unchanged(arithmetic, "--analogy has no attribute", **none)
            if len(numbers) != 3 or max(numbers) >= len(split.x):
                raise UsageError(
                    f"--analogy {' '.join(map(str, numbers))}: expected three numbers of images, "
                    f"0 to {len(split.x) - 1}"
                )
            found = report.analogy(loaded, split, numbers)
        else:
            count = shared.upto("n", n, 10, len(split.x))
            data, both = loaded.data(place), None
            if having is None or lacking is None:
                assert attribute is not None
                own, called = report.named(loaded, data.train, attribute), attribute
            else:
                both = [
                    shared.images(loaded, one, Place(), terminal)[0] for one in (having, lacking)
                ]
                own, called = report.between(loaded, *both), f"{files['having']}"
            for name in dict.fromkeys([*([attribute] if attribute else []), *against]):
                if halves := report.halves(loaded.spec, name):
                    terminal.note(
                        f"{halves}: the upper half of its values against the lower, in their "
                        f"order; if they have none, choose one, such as {name}=0"
                    )
            others = [report.named(loaded, data.train, name) for name in against]
            found = report.walk(loaded, split, count, own, called, others, against, strength)
            if judge:
                from flaxvae.analysis import attributes
                from flaxvae.runs import judges

                stages = terminal.watch
                if both is None:
                    judged = judges.judge(data, called, against, stages)
                else:
                    judged = judges.of_sets(data, both[0], both[1], called, against, stages)
                direction = attributes.orthogonal(own, np.array(others))
                lines = report.judged(loaded, split, judged, called, direction, strength)
    return [*lines, relative(plots.image_grid(path, **found._asdict()))]
