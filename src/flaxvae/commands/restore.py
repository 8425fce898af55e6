"""flaxvae restore runs/latest --mask lower-half"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from flaxvae.declared import NotNegative, Positive, Seed, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def restore(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    mask: str | None = None,
    noise: NotNegative = 0.0,
    damage: bool = False,
    n: Positive | None = None,
    completions: Positive = 4,
    temperatures: Positive = 100,
    chains: Positive = 16,
    seed: Seed = 0,
    prior: Literal["fitted", "own"] | None = None,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> None:
    """Complete images of which pixels are hidden, or that are noisy: several draws of each.

    They are drawn from p(z | seen) by annealed importance sampling with Hamiltonian Monte Carlo,
    and written to an .npz file beside the figure. Where the originals are known, the peak
    signal-to-noise ratio is compared with a median filter's.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file, of damaged
            images; by default whole test images, which are damaged first. The flag may be left
            out: restore RUN IMAGES.
        mask: Hidden pixels: lower-half, upper-half, left-half, right-half, centre, none, or a file,
            in which they are white (a picture) or not 0 (an .npz or .npy); by default, of test
            images without noise, the lower half.
        noise: Standard deviation of Gaussian noise, of pixels between 0 and 1.
        damage: The given images are whole, too: hide their pixels and add noise first.
        n: Restore the first n images; by default 8, or all if there are fewer.
        completions: Of each image.
        temperatures: Steps of annealing, each of 10 leapfrog steps; the more, the closer to exact
            draws.
        chains: For each image.
        seed: Determines noise and draws.
        prior: Of the latents: the one that `flaxvae fit-prior` has fitted, or the model's own; by
            default the fitted one, if there is one.
        out: PNG to write, and an .npz of that name beside it; by default figures/restored.png and
            restored.npz in the run, with the options in their names.
    """
    usual = "lower-half" if images is None and not noise else "none"
    which = usual if mask is None else mask
    if which == "none" and not noise:
        raise UsageError("nothing to restore: expected --mask or --noise")
    import numpy as np

    from flaxvae import writing
    from flaxvae.commands import shared
    from flaxvae.data import masks
    from flaxvae.data.dataset import taken
    from flaxvae.report import plots, restored
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    whole = damage or images is None
    if noise and not whole and loaded.spec.binary:
        raise UsageError(
            f"--noise {noise:g}: the images would be binarized when they are read, as those of the "
            "training were; expected whole ones with --damage"
        )
    if images is None:
        shared.unchanged(restore, "test images are always damaged", damage=damage)
    options: dict[str, Any] = {"images": images, "mask": mask, "noise": noise, "damage": damage}
    options |= {"n": n, "completions": completions, "temperatures": temperatures}
    options |= {"chains": chains, "seed": seed, "prior": prior}
    named = options | {"mask": mask and mask.rpartition("/")[2]}
    path = shared.target(loaded, "figures/restored.png", out, restore, **named)
    data = path.with_suffix(".npz") if out else loaded.path / f"{path.stem}.npz"
    for given in (images, mask):
        if given is not None and Path(given).expanduser().resolve() == data.resolve():
            raise UsageError(f"--out {out}: it would replace {given}; expected another name")
    with Terminal() as terminal:
        split, _ = shared.images(loaded, images, place, terminal)
        split = taken(split, np.arange(shared.upto("n", n, 8, len(split.x))))
        x = split.images()
        if x.ndim != 4:
            raise UsageError(f"images of shape {x.shape[1:]}: expected height, width and channels")
        hidden = masks.hidden(which, *x.shape[:3])
        of = restored.Damaged(x, hidden, noise, None)
        of = restored.damaged(x, hidden, noise, seed) if whole else of
        labels = None if loaded.recipe.classes is None else split.y
        how = {name: options[name] for name in ("completions", "temperatures", "chains", "seed")}
        found = loaded.restore(
            of.seen,
            labels,
            hidden=hidden,
            noise=noise,
            prior=prior,
            watch=terminal.watch("restoring"),
            **how,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            "completions": found.completions,
            "mean": found.mean,
            "hidden": of.hidden,
        }
        arrays |= {"seen": of.seen, "log_p": found.log_p}
        arrays |= {} if of.original is None else {"original": of.original}
        arrays |= {} if split.files is None else {"files": np.array(split.files)}
        with writing.whole(data) as file:
            np.savez(file, **arrays)
        plain = restored.without_model(of)
        plots.image_grid(path, **restored.figure(loaded, found, of, plain)._asdict())
        said = restored.facts(found, of, plain)
        said |= {"figure": relative(path), "completions": relative(data)}
        terminal.summary(said, [])
