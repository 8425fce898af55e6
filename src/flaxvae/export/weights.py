"""A model's variables as arrays with names, "params.encoder.conv_0.kernel".

The first word is the collection: ``params`` are trained by gradients, others are state, such as a
codebook. The rest is the path in the Flax modules. Kernels lie as Flax has them: of a Dense layer
[inputs, outputs], of a convolution [height, width, inputs, outputs], and of a transposed
convolution as those of the convolution that it transposes, [height, width, outputs, inputs].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxvae.core import Variables
from flaxvae.errors import DataError
from flaxvae.export import safetensors


def flat(variables: Variables) -> dict[str, np.ndarray]:
    """The arrays of nested dictionaries by the path to each."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(variables))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


def nested(arrays: Mapping[str, Any]) -> Variables:
    """The inverse of ``flat``. Raises ValueError if a name goes on where another's array is."""
    found: Variables = {}
    for name, array in arrays.items():
        *parents, last = name.split(".")
        at = found
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise ValueError(f"{name} lies in an array")
        if last in at:
            raise ValueError(f"{name} is an array and has arrays in it")
        at[last] = array
    return found


def read(path: str | Path) -> Variables:
    """The variables in a ``weights.npz`` or ``weights.safetensors`` of ``flaxvae export``.

    ``Trained(recipe, read(path))`` is the model again. Raises DataError if the file is damaged.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return nested(safetensors.read(path)[0])
        with np.load(path, allow_pickle=False) as file:
            return nested({name: file[name] for name in file.files})
    except (DataError, OSError):
        raise
    except Exception as error:  # numpy, zipfile and zlib raise almost anything on damage
        raise DataError(
            f"{path} is damaged ({error}): expected the weights of `flaxvae export`; export them "
            "again"
        ) from None


def table(arrays: Mapping[str, np.ndarray]) -> str:
    """Names, shapes and types of arrays, in Markdown."""
    rows = [
        f"| `{name}` | {' x '.join(map(str, array.shape)) or 'one number'} | {array.dtype} |"
        for name, array in arrays.items()
    ]
    return "\n".join(["| name | shape | type |", "|---|---|---|", *rows])


LAYOUT = """\
The first word of a name is the collection: `params` were trained by gradients, others are state.
The rest is the path in the network. `kernel` and `bias` belong to one layer:

- a Dense layer computes x W + b; its kernel is [inputs, outputs];
- a convolution's kernel is [height, width, inputs, outputs], images are [height, width, channels],
  and (size - 1) // 2 rows and columns of zeros lie before an image;
- a transposed convolution's kernel is that of the convolution it transposes, [height, width,
  outputs, inputs].

Maps are flattened in the order height, width, channels.
"""
