"""A prior fitted to the codes of a trained model with continuous latents, and kept in its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxvae import lookup
from flaxvae.analysis import fitted_prior
from flaxvae.analysis.fitted_prior import Improvement, Kind
from flaxvae.data import pipeline
from flaxvae.declared import Count, Positive, Seed, typed
from flaxvae.errors import command, counted
from flaxvae.report import plots, shown, words
from flaxvae.runs import fitted, lock
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.run import Run, opened
from flaxvae.settings import Place
from flaxvae.training import observers


@typed
def fit_prior(
    path: str | Path,
    kind: Kind = "mixture",
    *,
    components: Positive = fitted_prior.COMPONENTS,
    epochs: Count = fitted_prior.EPOCHS,
    batch_size: Positive = fitted_prior.BATCH,
    learning_rate: float = fitted_prior.LEARNING_RATE,
    seed: Seed = 0,
    place: Place = Place(),
    recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES,
    terminal: Any = None,
) -> Run:
    """Fit a prior to draws from q(z|x) of a run's training images, and keep it as its prior.npz.

    It belongs to the run's present parameters. ``figures/fitted_prior.png`` shows samples before
    and after, and the record has what it gains on test images, in nats.

    Args:
        path: run folder of a model with continuous latents.
        kind, components, epochs, batch_size, learning_rate, seed: as of
            ``analysis.fitted_prior.fit``.
        place: where the run's data are now, if they have moved.
        recipes: recipes from outside, by name, if the run uses one.
        terminal: shows progress.

    Returns:
        The Run, whose ``sample`` draws from the fitted prior.

    Raises:
        UsageError: discrete latents, too few images, or too many latent dimensions.
        DataError: the folder is damaged, or its data are not found.
    """
    watch = terminal or observers.Quiet()
    with lock.hold(RunFolder.open(path).path):
        run = opened(path, prior=False, recipes=recipes)
        for remark in run.remarks:
            watch.note(remark)
        fitted_prior.check(kind, run.latent_size)
        data = run.data(place)
        train = pipeline.binarized(data.train, data.binarization, fold=0)
        options: dict[str, Any] = {"components": components, "seed": seed}
        if kind == "flow":
            options |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
            watch.stage("fitting the flow")
        run = run.fit_prior(train, kind=kind, **options)
        gained = run.prior_gain(data.test, seed=seed)
        facts = {"images": len(train.x), "seed": seed, "test_nats": gained.nats}
        facts |= {} if gained.gain is None else {"test_gain": gained.gain}
        assert run.fitted is not None
        fitted.write(run.path / fitted.NAME, run.fitted, run.variables, facts)
        drawn = {}
        if run.spec.kind != "table":
            run.folder.figures.mkdir(exist_ok=True)
            file = run.folder.figures / "fitted_prior.png"
            plots.side_by_side(file, **shown.before_and_after(run)._asdict())
            drawn["figure"] = words.relative(file)
    watch.summary(_said(run, len(train.x), gained) | drawn, _next(run))
    return run


def _said(run: Run, images: int, gained: Improvement) -> dict[str, str]:
    said = {
        "prior": f"{shown.prior_called(run)} of {counted(images, 'training image')}",
        "log p(z)": f"{gained.nats:.2f} nats, mean over {counted(gained.codes, 'test code')}",
    }
    if gained.gain is not None:
        better = "above" if gained.gain >= 0 else "below"
        said["log p(z)"] += f"; {gained.own:.2f} under the model's own prior"
        said["gain"] = (
            f"{gained.gain:.2f} ± {gained.gain_error:.2f} nats: the test ELBO under the fitted "
            f"prior lies so much {better} the model's"
        ).replace("-", "−")
    return said | {"kept": words.relative(run.path / fitted.NAME)}


def _next(run: Run) -> list[tuple[str, str]]:
    if run.spec.kind == "table":
        return words.page_again(run)
    place = words.relative(run.path)
    return [
        (command(words.program(), "sample", place), "draw from it"),
        (command(words.program(), "sample", place, "--prior", "own"), "from the model's own"),
        *words.page_again(run),
    ]
