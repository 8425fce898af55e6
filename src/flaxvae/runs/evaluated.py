"""The tightest bound that ``flaxvae eval --k`` has written into a run. Nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxvae.runs import records

FILES = "evaluation*.json"


def bound(path: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of all test images and of the parameters of ``summary``, that of the largest k; or None.

    It has the fields of ``analysis.evaluation.Estimate``: k, nats, standard_error.
    """
    found = [x for file in sorted(path.glob(FILES)) if (x := _read(file, summary)) is not None]
    return max(found, key=lambda x: x["k"], default=None)


def _read(file: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The bound in a file, if it has one that belongs to ``summary``."""
    try:
        stored = records.parse(file.read_bytes())
        fits = stored["split"] == "test" and stored["step"] == summary["step"]
        if not fits or "remarks" in stored or stored["images"] != summary["test"]["images"]:
            return None
        seen = stored["importance_weighted_elbo"]
        numbers = {name: float(seen[name]) for name in ("nats", "standard_error")}
        return {"k": int(seen["k"]), **numbers}
    except (OSError, ValueError, LookupError, TypeError):
        return None  # `flaxvae verify` says what is wrong with it
