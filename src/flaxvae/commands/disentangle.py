"""flaxvae disentangle runs/latest --without shape"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from flaxvae.declared import Positive, Seed, typed
from flaxvae.errors import UsageError, counted
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place

if TYPE_CHECKING:
    from flaxvae.data.pipeline import Split
    from flaxvae.runs.run import Run

UNORDERED = ("shape",)


@typed
def disentangle(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    draws: bool = False,
    fresh: bool = False,
    without: tuple[str, ...] = (),
    unordered: tuple[str, ...] = UNORDERED,
    udr: tuple[str, ...] = (),
    bins: Positive = 20,
    seed: Seed = 0,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Measure how far each latent dimension stands for one factor of the data, such as a position.

    BetaVAE and FactorVAE score, MIG, SAP, DCI, modularity, explicitness and IRS; with --udr also
    UDR. The numbers are also written to disentanglement.json in the run, and a picture of the
    mutual information to figures/mutual_information.png, or, if options are given, to files named
    after them. Units whose code has a variance below 0.01 are unused, and count as constant.

    Args:
        run: Run folder.
        images: An .npz file of images with an array "factors", [N, F]: a row for each image. By
            default the test images of data that have factors: sprites, sprites_color.
        draws: Measure draws from q(z|x), not its means: then what a unit says below its noise does
            not count.
        fresh: For the BetaVAE and the FactorVAE score, render 300,000 new images; by default their
            groups of images that share a factor are drawn from those at hand.
        without: Factors that are not counted, and vary with the rest.
        unordered: Factors whose values have no order; SAP sets thresholds for them, and fits lines
            to others.
        udr: Other runs, whose units are compared with this one's: the same settings with other
            seeds.
        bins: Of equal width, for the mutual information.
        seed: Determines the draws, and which images learn and which test.
    """
    import jax
    import numpy as np

    from flaxvae.analysis.disentanglement import agreement, codes, scores
    from flaxvae.commands import shared
    from flaxvae.report import disentanglement as report
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs import factors
    from flaxvae.runs.folder import write_json
    from flaxvae.runs.run import load

    loaded, beside = load(run, recipes), [load(other, recipes) for other in udr]
    if images is None:
        factors.check_known(loaded)
    places = [each.path.resolve() for each in (loaded, *beside)]
    for name, path in zip(udr, places[1:], strict=True):
        if places.count(path) > 1:
            raise UsageError(f"--udr {name}: the same run twice: expected runs with other seeds")
    for each in (loaded, *beside):
        _check_codes(each, loaded)
    options: dict[str, Any] = {"images": images, "draws": draws, "fresh": fresh}
    options |= {"without": without, "unordered": unordered, "bins": bins, "seed": seed}
    options |= {"udr": tuple(each.path.name for each in beside)}
    with contextlib.ExitStack() as after, Terminal() as terminal:
        split, arrays = shared.images(loaded, images, place, terminal)
        if fresh:
            _check_fresh(loaded, split, images)
        known = factors.of(loaded, split, arrays, images, without)
        if unordered != UNORDERED:
            for name in unordered:
                factors.check_name("unordered", name, known.names)

        z = loaded.encode(split, watch=terminal.watch("latents"))
        means, used = z, codes.used(loaded.recipe, z)
        encode = codes.encoder(loaded.recipe, loaded.variables, loaded.mesh, draws)
        if draws:
            z = encode(loaded.split(split), jax.random.key(seed), terminal.watch("draws"))
        sample = None
        if fresh:
            sizes = [count for _, count in loaded.spec.factors]
            new = terminal.watch("new images")
            sample = codes.rendered(encode, split, sizes, known.columns, new)
        found = scores.measure(
            z,
            known.values,
            known.names,
            used=used,
            unordered=unordered,
            sample=sample,
            bins=bins,
            seed=seed,
        )
        about: dict[str, Any] = {
            "data": loaded.spec.name if images is None else images,
            "codes": "draws from q(z|x)" if draws else loaded.recipe.code,
            "bins": bins,
            "groups": "new images" if fresh else "these images",
            "without": list(without),
            "unordered": [name for name in unordered if name in known.names],
            "seed": seed,
        }
        facts = report.facts(about, known, found)
        if beside:
            theirs = [each.encode(split, watch=terminal.watch("other runs")) for each in beside]
            active = [codes.used(each.recipe, x) for each, x in zip(beside, theirs, strict=True)]
            ranking = agreement.unsupervised_ranking([means, *theirs], [used, *active])
            median, pairs = float(ranking.scores[0]), ranking.of_pairs[0, 1:].tolist()
            paths = [relative(each.path) for each in beside]
            about["udr"] = {"median": median, "runs": dict(zip(paths, pairs, strict=True))}
            facts["UDR"] = (
                f"{median:.3f}, agreement of {loaded.recipe.code} with "
                f"{counted(len(beside), 'other run')}"
            )
        with shared.unless_unwritable(after):
            usual = ("disentanglement.json", "figures/mutual_information.png")
            data, picture = (
                shared.target(loaded, name, None, disentangle, **options) for name in usual
            )
            written = about | shared.step(loaded) | found.as_json() | {"units": report.UNITS}
            write_json(data, written)
            nats, entropy = np.array(found.information), np.array(found.entropy)
            matrix = report.matrix(loaded, nats, entropy, used, known.names, about["codes"], bins)
            report.draw_matrix(picture, **matrix._asdict())
            facts["written"] = f"{relative(data)} and {relative(picture)}"
        terminal.table(report.lines(found))
        terminal.summary(facts, [])


def _check_codes(run: Run, like: Run) -> None:
    """Raises UsageError unless a run has continuous codes of images like another's."""
    if run.recipe.codes is not None:
        raise UsageError(
            f"model {run.plan.model} of {run.path} has discrete latents: expected continuous ones"
        )
    if (run.spec.shape, run.spec.binary) != (like.spec.shape, like.spec.binary):
        seen, expected = (
            " x ".join(map(str, each.spec.shape)) + ", binary" * each.spec.binary
            for each in (run, like)
        )
        raise UsageError(f"--udr {run.path}: images of {seen}, expected {expected}")


def _check_fresh(run: Run, split: Split, images: str | None) -> None:
    """Raises UsageError unless new images can be rendered, and need no labels."""
    if images is not None or split.render is None:
        what = f"--images {images}" if images is not None else run.spec.name
        raise UsageError(
            f"--fresh with {what}: expected data drawn from their factors; leave it out"
        )
    if run.recipe.classes is not None:
        raise UsageError(
            f"--fresh with model {run.plan.model}, which needs a label for each image: expected a "
            "model without labels; leave it out"
        )
