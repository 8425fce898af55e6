"""The formats of ``flaxvae export``: what each writes into its folder.

Every folder also gets README.md, the model card, and export.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae import writing
from flaxvae.export import card, jax_export, onnx, projector, pytorch, safetensors, weights
from flaxvae.runs import export_folder, exported
from flaxvae.runs.run import Run
from flaxvae.settings import Export


class Format(NamedTuple):
    """A way out."""

    write: Callable[[Run, Path], str]  # the files, into a folder; returns how to use them, in
    # Markdown. Raises UsageError if the model does not fit the format
    check: Callable[[Run], None] = lambda run: (
        None
    )  # raises that UsageError before anything is done


def _npz(run: Run, folder: Path) -> str:
    arrays = weights.flat(run.variables)
    exported.write(folder / "weights.npz", arrays)
    return f"""\
`weights.npz` has the weights, for NumPy or anything else:

```python
import numpy as np

weights = np.load("weights.npz")
```

{_layout(arrays)}"""


def _safetensors(run: Run, folder: Path) -> str:
    arrays = weights.flat(run.variables)
    words = {"format": "flax", "model": run.plan.model, "data": run.spec.name}
    safetensors.write(folder / "weights.safetensors", arrays, words)
    return f"""\
`weights.safetensors` has the weights:

```python
from safetensors.numpy import load_file

weights = load_file("weights.safetensors")
```

{_layout(arrays)}"""


def _layout(arrays: Mapping[str, np.ndarray]) -> str:
    return f"{weights.LAYOUT}\n{weights.table(arrays)}\n"


def _card(run: Run, folder: Path) -> str:
    return ""


FORMATS: Mapping[Export, Format] = {
    "npz": Format(_npz),
    "safetensors": Format(_safetensors),
    "jax": Format(jax_export.write, jax_export.check),
    "torch": Format(pytorch.write, pytorch.check),
    "onnx": Format(onnx.write, onnx.check),
    "projector": Format(projector.write),
    "card": Format(_card),
}


def write(run: Run, to: Export, path: Path) -> list[Path]:
    """Export a run's model into the folder ``path``; returns the files. An earlier export is
    replaced.

    Raises:
        UsageError: the format cannot hold this model, or needs a package that is missing; or
            ``path`` holds anything but an earlier export, or a README.md that was edited.
        DataError: the run is damaged.
    """
    form = FORMATS[to]
    form.check(run)
    export_folder.check_target(path)
    with export_folder.written(path, export_folder.describe(run, to)) as folder:
        use = form.write(run, folder)
        writing.text(folder / export_folder.CARD, card.card(run, use))
        names = sorted(each.name for each in folder.iterdir())
    return [path / name for name in names]
