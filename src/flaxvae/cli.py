"""The command line: a thin skin. It parses, calls what does the work, and turns errors into exits.

JAX is imported only once the arguments have been understood, so that ``--help`` is quick.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal

from flaxvae import flags, signals, streams, zoo
from flaxvae.errors import FlaxvaeError, UsageError
from flaxvae.flags import LATEST, RunArgument
from flaxvae.settings import DataSettings, Hosts, Place, TrainSettings
from flaxvae.synonyms import hint


def train(argv: list[str]) -> None:
    """Train a model, evaluate it on held-out images, draw its figures."""
    resume = flags.value_of("--resume", argv)
    before = None
    if resume is None:
        model = flags.value_of("--model", argv, "vae")
        data, training = DataSettings(), TrainSettings()
        chosen: dict[str, Any] = {}
    else:  # the run's own settings are the defaults, so that any other is seen to differ
        from flaxvae.training.runs import RunFolder

        before = RunFolder.open(resume).plan()
        model = flags.value_of("--model", argv, before.model)
        data, training = before.data, before.training
        chosen = dict(before.arguments) if model == before.model else {}
    groups = flags.groups(model, chosen)

    def command(
        model: str = model,
        run: str | None = None,
        resume: str | None = None,
        allow_changes: bool = False,
        data: DataSettings = data,
        training: TrainSettings = training,
        hosts: Hosts = Hosts(),
        **groups: Any,
    ):
        return run, resume, allow_changes, hosts, data, training, *groups.values()

    command.__doc__ = f"""Train a model, evaluate it on held-out images, draw its figures.

    Args:
        model: {", ".join(zoo.RECIPES)}; each has flags of its own, shown with --model NAME --help.
        run: Folder to write; by default runs/<dataset>-<model>-s<seed>-<time>.
        resume: Go on with this run folder, from its last checkpoint.
        allow_changes: Resume with other settings than the run's: any but the model, the data and
            what shapes the parameters.
    """
    flags.declare(command, groups)
    run, resume, allow_changes, hosts, *settings = flags.parse(command, argv, "train")
    from flaxvae import api
    from flaxvae.report.terminal import Terminal
    from flaxvae.training.hosts import joined

    plan = api.plan_of(model, **{k: v for s in settings for k, v in vars(s).items()})
    api.check_effects([plan], before)
    with joined(hosts), Terminal() as terminal:
        api.execute(plan, run=run, resume=resume, allow_changes=allow_changes, terminal=terminal)


def sweep(argv: list[str]) -> None:
    """Train a grid of settings and seeds side by side, and compare them."""
    resume = flags.value_of("--resume", argv)
    if resume is not None:
        known = flags.taken(_resume_sweep)
        if any(word.startswith("-") and word.partition("=")[0] not in known for word in argv):
            raise UsageError(
                f"--resume {resume} with other flags: expected none, or where the data are; a "
                "sweep goes on as it began"
            )
        flags.parse(_resume_sweep, argv, "sweep")
        return
    model = flags.value_of("--model", argv, "vae")
    data, training, groups = DataSettings(), TrainSettings(), flags.groups(model, {})

    def command(
        model: str = model,
        seeds: int = 5,
        run: str | None = None,
        resume: str | None = None,
        data: DataSettings = data,
        training: TrainSettings = training,
        **groups: Any,
    ):
        settings = (data, training, *groups.values())
        return seeds, run, {k: v for s in settings for k, v in vars(s).items()}

    command.__doc__ = f"""Train every combination of settings with every seed, those that differ in
    numbers alone in one compiled program.

    Flags are those of train; settings of the model and of the optimizer take several values, as in
    --beta 1 2 4. A member is a run folder like any other.

    Args:
        model: {", ".join(zoo.RECIPES)}; each has flags of its own, shown with --model NAME --help.
        seeds: How many seeds for each setting, from --seed on.
        run: Folder to write; by default runs/sweep-<dataset>-<model>-<time>.
        resume: Go on with this interrupted sweep; takes no other flag.
    """
    flags.declare(command, groups)
    first, others = flags.several(argv, flags.lists(command))
    seeds, run, choices = flags.parse(command, first, "sweep")
    varied: dict[str, list[Any]] = {}
    for name, line in others:
        if name not in choices:
            raise UsageError(f"--{name} with several values: expected one")
        values = varied.setdefault(name, [choices[name]])
        values.append(flags.parse(command, line, "sweep")[-1][name])
    from flaxvae import sweeps
    from flaxvae.report.terminal import Terminal

    # Varied settings first, in the order in which they were typed: that of the grid.
    grid = sweeps.make_grid(model, seeds, **(varied | {**choices, **varied}))
    with Terminal() as terminal:
        sweeps.execute(grid, run=run, terminal=terminal)


def _resume_sweep(resume: str, place: Place = Place()) -> None:
    """Go on with an interrupted sweep.

    Args:
        resume: Its folder.
    """
    from flaxvae import sweeps
    from flaxvae.report.terminal import Terminal

    with Terminal() as terminal:
        sweeps.resume(resume, place=place, terminal=terminal)


def evaluate(
    run: RunArgument = LATEST,
    k: int = 0,
    samples: int = 1,
    split: Literal["test", "validation"] = "test",
    images: int | None = None,
    seed: int = 0,
    place: Place = Place(),
) -> None:
    """ELBO, its terms, reconstruction error and, with --k, a tighter bound, on held-out images.

    Args:
        run: Run folder.
        k: Importance samples an image for a bound that tends to log p(x) as they grow in number
            (5000 in the papers), or on grey pixels under a Bernoulli to no density; 0: none.
        samples: Draws of z an image for the ELBO.
        split: Which images.
        images: Only the first so many of them.
        seed: Decides the draws.
    """
    from flaxvae import commands

    options: dict[str, Any] = {"split": split, "images": images, "seed": seed}
    commands.evaluate(run, k=k, samples=samples, place=place, **options)


def sample(
    run: RunArgument = LATEST,
    n: int = 100,
    seed: int = 0,
    temperature: float = 1.0,
    label: str | None = None,
    out: str | None = None,
) -> None:
    """Draw new images from the prior.

    Args:
        run: Run folder.
        n: How many.
        seed: Decides the draws.
        temperature: Scale of the prior's standard deviation; below 1 is less varied.
        label: Class to draw, of a conditional model; by default all in order.
        out: PNG to write; by default in the run, figures/samples.png, or with other options a
            name that says them: samples-n-64-seed-1.png.
    """
    from flaxvae import commands

    options: dict[str, Any] = {"n": n, "seed": seed, "temperature": temperature, "label": label}
    print(commands.sample(run, **options, out=out))


def reconstruct(
    run: RunArgument = LATEST,
    images: str | None = None,
    n: int | None = None,
    out: str | None = None,
    place: Place = Place(),
) -> None:
    """Show images over their reconstructions.

    Args:
        run: Run folder.
        images: An .npz or .npy file; by default the test images.
        n: How many, from the first; by default 20, or all there are.
        out: PNG to write; by default in the run, figures/reconstructions.png, or with other
            options a name that says them.
    """
    from flaxvae import commands

    print(commands.reconstruct(run, images=images, n=n, out=out, place=place))


def interpolate(
    run: RunArgument = LATEST,
    rows: int | None = None,
    steps: int = 10,
    out: str | None = None,
    place: Place = Place(),
) -> None:
    """Walk along straight lines between the codes of pairs of test images.

    Args:
        run: Run folder.
        rows: Pairs of images; by default 8, or as many as there are.
        steps: Images a row, both ends included.
        out: PNG to write; by default in the run, figures/interpolations.png, or with other
            options a name that says them.
    """
    from flaxvae import commands

    print(commands.interpolate(run, rows=rows, steps=steps, out=out, place=place))


def traverse(
    run: RunArgument = LATEST,
    image: int | None = None,
    label: str | None = None,
    units: int | None = None,
    steps: int = 11,
    span: float = 3.0,
    out: str | None = None,
    place: Place = Place(),
) -> None:
    """Walk along single latent dimensions, the others held.

    Args:
        run: Run folder.
        image: Test image to walk through, by its number; by default the prior's mean.
        label: Class, of a conditional model; by default that of the image, or the one
            in the middle.
        units: How many dimensions, from the most used; by default those in use, 2 to 10.
        steps: Images a row.
        span: How far to either side, in standard deviations.
        out: PNG to write; by default in the run, figures/traversals.png, or with other options
            a name that says them.
    """
    from flaxvae import commands

    options: dict[str, Any] = {
        "image": image,
        "label": label,
        "units": units,
        "steps": steps,
        "span": span,
    }
    print(commands.traverse(run, **options, out=out, place=place))


def fit_prior(
    run: RunArgument = LATEST,
    epochs: int = 50,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    devices: int | None = None,
    place: Place = Place(),
) -> None:
    """Fit the prior over a VQ-VAE's codes, with which it draws new images.

    Args:
        run: Run folder.
        epochs: Passes over the training images' codes.
        batch_size: Images a step.
        learning_rate: Adam's, at first; it decays to zero by a cosine.
        seed: Decides initial weights and order.
        devices: Devices to use; by default all.
    """
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="cosine",
        seed=seed,
        devices=devices,
    )
    from flaxvae import commands

    commands.fit_prior(run, settings, place)


def encode(
    run: RunArgument = LATEST,
    images: str | None = None,
    scores: bool = True,
    out: str | None = None,
    place: Place = Place(),
) -> None:
    """Write latents (the code of each image) and scores (-ELBO, nats) to an .npz file.

    Args:
        run: Run folder.
        images: An .npz or .npy file; by default the test images, with their labels.
        scores: Compute scores, which take many times as long as the latents.
        out: File to write, with z [N, D], score [N], labels [N] and what else the .npz of the
            images holds for each of them, such as names; by default latents.npz in the run, or
            latents-images-NAME.npz.
    """
    from flaxvae import commands

    print(commands.encode(run, images=images, scores=scores, out=out, place=place))


def figures(run: RunArgument = LATEST, place: Place = Place()) -> None:
    """Draw all figures of a run again.

    Args:
        run: Run folder.
    """
    from flaxvae import commands

    for path in commands.draw(run, place):
        print(path)


def verify(run: RunArgument = LATEST) -> None:
    """Read every file of a run folder and say whether it is whole; nothing is changed.

    Args:
        run: Run folder; it may be in training, or have been interrupted.
    """
    from flaxvae import commands

    commands.verify(run)


def doctor() -> None:
    """Say what is well and what is wrong: versions, devices, data, disk; with a self-test."""
    from flaxvae import commands

    commands.examine()


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "sweep": sweep,
    "eval": evaluate,
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "traverse": traverse,
    "fit-prior": fit_prior,
    "encode": encode,
    "figures": figures,
    "verify": verify,
    "doctor": doctor,
}


def _usage() -> str:
    lines = ["usage: flaxvae COMMAND [OPTIONS]      (flaxvae COMMAND --help lists its options)", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<12} {(command.__doc__ or '').splitlines()[0]}")
    lines += ["", "Try: flaxvae train      (a minute, no download)"]
    return "\n".join(lines)


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return
    name, rest = argv[0], argv[1:]
    if name == "--version":
        from flaxvae import __version__

        print(f"flaxvae {__version__}")
    elif name not in COMMANDS:
        meant = hint(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}{meant} (commands: {', '.join(COMMANDS)})")
    elif name in ("train", "sweep"):  # their flags depend on the model
        COMMANDS[name](rest)
    else:
        flags.parse(COMMANDS[name], rest, name)


_report = sys.unraisablehook


def _is_of_a_read(error: BaseException | None) -> bool:
    """Whether it is TensorStore's, of a read that went on when another one had failed."""
    return type(error) is RuntimeError and str(error) == "Event loop is closed"


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not _is_of_a_read(error):
        sys.__excepthook__(kind, error, trace)


def _unraisable_hook(found: Any) -> None:  # TensorStore's threads have nobody to raise it to
    if not _is_of_a_read(found.exc_value):
        _report(found)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``flaxvae`` command; exits with the codes that ``errors`` documents."""
    sys.excepthook, sys.unraisablehook = _hook, _unraisable_hook
    gc.set_threshold(50_000)  # imports and tracing make millions of objects, hardly any garbage
    with streams.steady(), signals.raised():
        try:
            _run(sys.argv[1:] if argv is None else argv)
            return
        except FlaxvaeError as error:
            said, code = str(error), error.exit_code
        except KeyboardInterrupt as error:
            said, code = "interrupted", 128 + getattr(error, "number", signal.SIGINT)
        except OSError as error:  # a folder that cannot be written, a full disk
            where = f": {error.filename}" if error.filename else ""
            said, code = f"{error.strerror or error}{where}", 3
        print(f"flaxvae: {said}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
