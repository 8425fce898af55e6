"""Codes for the Embedding Projector, at projector.tensorflow.org or in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flaxvae import writing
from flaxvae.errors import counted
from flaxvae.runs import exported
from flaxvae.runs.run import Run

_CONFIG = """\
embeddings {
  tensor_name: "codes"
  tensor_path: "codes.tsv"
  metadata_path: "codes-metadata.tsv"
}
"""


def write(run: Run, folder: Path) -> str:
    """Write the codes of the run's test images, with labels, files and rows of the data.

    Returns how to show them, in Markdown. Raises DataError if the data are not found.
    """
    test = run.data().test
    arrays = {"z": run.encode(test), "row": np.arange(len(test.x))}
    if test.y is not None:
        arrays["label"] = test.y
    if test.files is not None:
        arrays["file"] = np.array(test.files)
    exported.write(folder / "codes.tsv", arrays)
    writing.text(folder / "projector_config.pbtxt", _CONFIG)
    one = f"test {run.spec.example}"
    return f"""\
`codes.tsv` has the code of each of {counted(len(test.x), one)}, `codes-metadata.tsv` what is known
of it. Load both at https://projector.tensorflow.org, or start `tensorboard --logdir .` here.
"""
