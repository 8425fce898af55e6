"""flaxvae score runs/latest new_pictures/"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flaxvae.declared import Positive, Rate, typed
from flaxvae.errors import DataError, UsageError
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import AnomalyScore, Place

if TYPE_CHECKING:
    import numpy as np

    from flaxvae.data.pipeline import Split
    from flaxvae.runs.anomaly import Reference
    from flaxvae.runs.run import Run

SHOWN = 5  # of the most unusual images


@typed
def score(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    scores: tuple[AnomalyScore, ...] | None = None,
    false_positive_rate: Rate | None = None,
    normal: tuple[str, ...] = (),
    k: Positive = 100,
    fit_steps: Positive = 100,
    levels: Positive = 1,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> list[str]:
    """Write how unusual each image is to a .csv file, the most unusual first.

    An image whose score is above a threshold is flagged. The threshold is set on validation images,
    and kept in the run, in anomaly.json. With normal classes it is also said how well their images
    are told from others. A picture shows which pixels of the worst images cost most.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file; by default
            the test images. The flag may be left out: score RUN IMAGES.
        scores: One or several, of which the first decides: combined (how badly the image
            is reconstructed and how rare its code is among training images), elbo (-ELBO in nats),
            importance (-log p(x) by importance samples), reconstruction, kl, regret (what the ELBO
            gains by optimising q for the image), complexity (-ELBO less the bits of a PNG), llr
            (for hierarchies: less the bound that leaves lower levels to the prior), mahalanobis and
            copod (of statistics of encoder and decoder). By default combined, but elbo where codes
            are discrete or have more than 512 dimensions.
        false_positive_rate: Of normal images, how many are flagged at most, on average; by default
            what the run keeps, at first 0.05.
        normal: Classes that are no anomalies; by default those of --normal in the training.
        k: Importance samples.
        fit_steps: Steps of optimising q, for regret.
        levels: Lowest levels of a hierarchy, for llr.
        out: File to write, with the columns file (or index, where images have no names), score,
            percentile (of training images with a lower score), flagged (1 or 0), label (where
            there are labels) and further scores by name; by default scores.csv in the run, or a
            name with the options. The picture goes beside it: NAME-worst.png for NAME.csv; by
            default among the run's figures.
    """
    import numpy as np

    from flaxvae import writing
    from flaxvae.analysis.anomaly import detection
    from flaxvae.analysis.anomaly import scores as scoring
    from flaxvae.commands import shared
    from flaxvae.errors import counted
    from flaxvae.report import anomaly as report
    from flaxvae.report import plots, tables
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import page_again, relative
    from flaxvae.runs.anomaly import SCORES, Reference
    from flaxvae.runs.run import load

    chosen = scores
    if scores is not None:
        _check_names(scores)
    for name, needs in {"k": "importance", "fit_steps": "regret", "levels": "llr"}.items():
        if needs not in (scores or ()):
            option = {"k": k, "fit_steps": fit_steps, "levels": levels}[name]
            shared.unchanged(score, f"--scores has no {needs}", **{name: option})
    loaded, settings = load(run, recipes), scoring.Settings(k, fit_steps, levels)
    scores = scores or (scoring.default(loaded.recipe, loaded.latent_size),)
    scoring.check(loaded.recipe, scores, settings, f"model {loaded.plan.model}")
    options: dict[str, Any] = {"images": images, "scores": chosen, "normal": normal}
    options |= {"false_positive_rate": false_positive_rate, "k": k}
    options |= {"fit_steps": fit_steps, "levels": levels}
    path = shared.target(loaded, SCORES, out, score, **options)
    reference = Reference.open(loaded, normal or loaded.plan.data.normal, settings)
    with Terminal(sys.stderr) as terminal:
        split, others = shared.images(loaded, images, place, terminal)
        anomalous = _anomalous(loaded, split, normal)

        def measure(some: Split, names: Sequence[AnomalyScore]) -> scoring.Measured:
            return loaded.scores(
                some, names, settings=settings, usual=reference.usual, stages=terminal.watch
            )

        known = _known(reference, scores, false_positive_rate, measure, place, images, terminal)
        found = measure(split, scores).completed(scores, reference.statistics)
    files = shared.named(split, others)
    names: Sequence[Any] = range(len(split.x)) if files is None else files
    decides, what = found[scores[0]], scoring.words(loaded.recipe, scores[0], settings)

    columns: dict[str, Sequence[Any]] = {"index" if files is None else "file": names}
    columns["score"] = [str(number) for number in decides]
    flags: dict[AnomalyScore, np.ndarray | None] = dict.fromkeys(scores)
    if known:
        for name in scores:
            if (above := reference.threshold(name)) is not None:
                flags[name] = detection.flagged(found[name], above)
        percentiles = detection.percentiles(decides, reference.training(scores[0]))
        columns["percentile"] = [f"{number:.2f}" for number in percentiles]
    if (flagged := flags[scores[0]]) is not None:
        columns["flagged"] = flagged.astype(int).tolist()
    if split.y is not None:
        columns["label"] = split.y.tolist()
    columns |= {name: [str(number) for number in found[name]] for name in scores[1:]}

    # What is not a number is stranger than any.
    order = np.argsort(np.where(np.isnan(decides), -np.inf, -decides), kind="stable")
    rows = [{name: column[i] for name, column in columns.items()} for i in order.tolist()]
    usual = ", the default score" * (chosen is None)
    lines = [f"most unusual of {counted(len(rows), loaded.spec.example)}, {what}{usual}:"]
    heads = [name for name in ("label", "percentile", "flagged") if name in columns]
    shown = []
    for row, i in zip(rows[:SHOWN], order, strict=False):
        cells = {**row, "percentile": f"{row.get('percentile')} %"}
        cells["flagged"] = "yes" if row.get("flagged") == 1 else "no"
        shown.append([f"{decides[i]:,.2f}", str(names[i]), *(str(cells[name]) for name in heads)])
    lines += tables.columns(["score", next(iter(columns)), *heads], shown, left=(1,))
    if flagged is not None:
        lines.append(
            f"threshold {reference.threshold(scores[0]):,.2f}: {flagged.sum():,} of "
            f"{len(flagged):,} flagged"
        )
        lines.append(
            f"set for {100 * reference.rate:g} % of normal images at most, on "
            f"{counted(reference.held_out, 'held-out image')}"
        )
    if anomalous is not None:
        assert split.y is not None
        lines += ["", *report.by_class(decides, flagged, split.y, anomalous)]
        if len(scores) > 1:
            lines += ["", *report.by_score(found, flags, anomalous)]
        lines.append("")

    pictured = loaded.spec.kind == "images"
    grid = report.picture(loaded, split, order, names, what) if pictured else {}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(columns), *(r.values() for r in rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.getvalue().encode("utf-8", "surrogateescape")
    with writing.whole(path) as file:
        file.write(raw)
    if path == loaded.path / SCORES:
        reference.wrote(raw, scores[0])
        lines += [f"`{again}` shows them in the run's page" for again, _ in page_again(loaded)]
    if known:
        _keep(reference, terminal)
    if pictured:
        drawn = path.with_name(f"{path.stem}-worst.png")
        if out is None:
            drawn = loaded.folder.figures / drawn.name
        plots.image_grid(drawn, **grid)
        lines.append(relative(drawn))
    lines.append(relative(path))
    return lines


def _check_names(scores: tuple[AnomalyScore, ...]) -> None:
    if not scores or len(set(scores)) < len(scores):
        seen = " ".join(scores) or "without a name"
        raise UsageError(f"--scores {seen}: expected one score or several, each once")


def _anomalous(run: Run, split: Split, normal: tuple[str, ...]) -> np.ndarray | None:
    """Which images are of other classes than normal ones, if these are known: [N] bool."""
    import numpy as np

    from flaxvae.data import labels

    asked = f"--normal {' '.join(normal)}"
    if split.y is None:
        if normal:
            raise UsageError(f"{asked}: the images have no labels; expected classes")
        return None
    seen = np.unique(split.y).tolist()
    known = sorted({*seen, *run.spec.names}, key=lambda name: (isinstance(name, str), name))
    chosen = normal or run.plan.data.normal
    if not chosen:
        return None
    numbers, strange = labels.find(np.array(chosen), known)
    if normal and strange is not None:
        raise UsageError(
            f"--normal {strange}: no such class, the classes are {labels.listed(known)}"
        )
    names = [str(known[number]) for number in numbers if number >= 0]
    found = ~np.isin(split.y.astype(str), names)
    if found.any() and not found.all():
        return found
    if normal:
        which = "all" if found.any() else "none"
        raise UsageError(f"{asked}: {which} of the images are of other classes; expected some")
    return None


def _known(
    reference: Reference,
    scores: tuple[AnomalyScore, ...],
    rate: float | None,
    measure: Any,
    place: Place,
    images: str | None,
    terminal: Any,
) -> bool:
    """Whether the scores of the run's own images are known, after computing what is missing.

    Raises DataError if they are needed, and the data are not there.
    """
    if missing := reference.missing(scores):
        needed = rate is not None or {"mahalanobis", "copod"} & {*scores}
        try:
            watch = terminal.watch("decoding pictures")
            data = reference.run.data(place if images is None else Place(), watch)
        except DataError as error:
            if needed:
                raise
            if "combined" in missing:
                how = f"{error}; --scores elbo takes new images without them"
                raise DataError(how) from None
            terminal.note(f"without percentiles and a threshold: {error}")
            return False
        reference.extend(missing, data, measure, terminal.watch("codes of training images"))
    reference.decide(rate)
    if reference.threshold(scores[0]) is None:
        terminal.note(
            f"nothing is flagged: {reference.held_out} held-out images are too few for a false "
            f"positive rate of {reference.rate:g}"
        )
    return True


def _keep(reference: Reference, terminal: Any) -> None:
    try:
        reference.write()
    except OSError as error:
        terminal.note(f"the threshold could not be kept in the run: {error}")
