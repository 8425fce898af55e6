"""prior.npz: a prior fitted to the codes of a run, with what it was fitted to.

Its arrays are the prior's params, named by their path; ``about`` is a sealed record in JSON, which
has the sha256 of the arrays and of the variables of the model. A prior is of use to those alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae import writing
from flaxvae.analysis import fitted_prior
from flaxvae.analysis.fitted_prior import FittedPrior
from flaxvae.core import Variables
from flaxvae.declared import Count, Positive
from flaxvae.errors import DataError
from flaxvae.runs import records
from flaxvae.runs.contents import digest
from flaxvae.runs.records import Sha256
from flaxvae.runs.restored import digests

NAME = "prior.npz"
FORMAT = 1
ADVICE = "fit it again with `flaxvae fit-prior`"


class About(TypedDict):
    """The record in it."""

    format: Literal[1]
    kind: fitted_prior.Kind
    size: Positive  # latent dimensions
    components: Positive
    images: Positive  # whose codes it was fitted to
    seed: Count
    arrays_sha256: Sha256
    parameters_sha256: Sha256  # of the model
    variables_sha256: Sha256
    test_nats: NotRequired[float]  # mean log p(z) of the test images' codes
    test_gain: NotRequired[float]


def write(path: Path, prior: FittedPrior, variables: Variables, facts: Mapping[str, Any]) -> None:
    """Keep a prior that was fitted to the codes of a model with these variables."""
    arrays = _flat(jax.device_get(prior.params))
    components = len(prior.params["mean"]) if prior.kind != "flow" else 1
    about = {
        "format": FORMAT,
        "kind": prior.kind,
        "size": prior.size,
        "components": components,
        **facts,
        "arrays_sha256": digest(arrays),
        **digests(variables),
    }
    with writing.whole(path) as file:
        np.savez(file, about=np.array(json.dumps(records.sealed(about))), **arrays)


def read(path: Path) -> tuple[FittedPrior, Mapping[str, Any]]:
    """A prior and its record. Raises DataError if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = records.parse(str(arrays.pop("about")[()]).encode())
        records.check(About, about)
        if about.get("seal") != records.seal(about):
            raise ValueError("its record was changed")
        if about["arrays_sha256"] != digest(arrays):
            raise ValueError("its arrays are not those that were fitted")
        like = fitted_prior.shapes(about["kind"], about["size"], about["components"])
        wanted = {name: leaf.shape for name, leaf in _flat(like).items()}
        if wanted != {name: array.shape for name, array in arrays.items()}:
            raise ValueError("arrays of other names or shapes")
    except DataError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise almost anything on damage
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise records.damaged(path, reason, ADVICE) from None
    return FittedPrior(about["kind"], _nested(arrays), about["size"]), about


def fits(about: Mapping[str, Any], model: Mapping[str, str]) -> bool:
    """Whether a prior was fitted to the codes of a model with these ``digests``."""
    return all(about[name] == model.get(name) for name in ("parameters_sha256", "variables_sha256"))


def of(folder: Path, variables: Variables) -> tuple[FittedPrior | None, DataError | None]:
    """The prior in a run's folder, if it has one, or why it is not to be used."""
    path = folder / NAME
    if not path.exists():
        return None, None
    try:
        prior, about = read(path)
    except DataError as error:
        return None, error
    if fits(about, digests(variables)):
        return prior, None
    return None, DataError(
        f"{path} was fitted to other parameters: expected those of the run; {ADVICE}"
    )


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of ``_flat``, as arrays of JAX."""
    found: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        at = found
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = jnp.asarray(array)
    return found


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their path, "flow/step_0/z_1/bias"."""
    if not isinstance(tree, dict):
        return {path: tree}
    found: dict[str, Any] = {}
    for name in sorted(tree):
        found |= _flat(tree[name], f"{path}/{name}" if path else name)
    return found
