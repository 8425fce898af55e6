"""flaxvae export runs/latest --to safetensors"""

from __future__ import annotations

from flaxvae.declared import typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Export, Place


@typed
def export(
    run: RunArgument = LATEST,
    *,
    to: Export = "npz",
    out: str | None = None,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> list[str]:
    """Write the model of a run for other programs: a folder with a model card, README.md.

    Args:
        run: Run folder.
        to: npz or safetensors: the weights, with names; jax: encoder, decoder, sampler and scorer
            as programs for CPU, CUDA and TPU; torch: a file of PyTorch with its weights; onnx: as
            jax, for onnxruntime, of images as decoded from disk; projector: the codes of the test
            images for the Embedding Projector; card: the model card alone.
        out: Folder to write; by default export/FORMAT in the run.
    """
    import dataclasses
    from pathlib import Path

    from flaxvae.commands import shared
    from flaxvae.export import formats
    from flaxvae.report.words import relative
    from flaxvae.runs import export_folder
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    if to == "projector":
        loaded = dataclasses.replace(loaded, loaded=loaded.data(place))
    else:
        shared.unused(place, f"with --to {to}, which needs no data")
    if out is None:
        shared.check_writable(loaded, loaded.path / export_folder.FOLDER, "give --out FOLDER, or ")
        path = loaded.path / export_folder.FOLDER / to
    else:
        path = Path(out).resolve() if Path(out).is_symlink() else Path(out)
    return [relative(written) for written in formats.write(loaded, to, path)]
