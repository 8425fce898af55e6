"""What run.json and summary.json hold; ``records`` reads them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from flaxvae.declared import Count, Positive, Within
from flaxvae.runs.records import Sha256

FORMAT = 1
Size = Annotated[int, Within(lambda n: 1 <= n < 2**31, "1 or more")]


class Format(TypedDict):
    format: int
    versions: NotRequired[dict[str, str]]


def _factor(x: Any) -> bool:
    named = isinstance(x, list) and len(x) == 2 and isinstance(x[0], str)
    return named and type(x[1]) is int and x[1] > 0


_Factor = Annotated[list[Any], Within(_factor, "a name and a number of values")]


class _Spec(TypedDict):
    """``DataSpec`` in JSON."""

    name: str
    shape: Annotated[list[Size], Within(lambda x: 0 < len(x) <= 8, "one to eight sizes")]
    classes: NotRequired[Positive | None]
    binary: NotRequired[bool]
    levels: NotRequired[Positive | None]
    examples: NotRequired[Count]
    labels: NotRequired[list[int | str] | None]
    unlabelled: NotRequired[str]
    kind: NotRequired[Literal["images", "vectors", "table"]]
    grey: NotRequired[Annotated[float, Within(lambda x: 0 <= x <= 1, "0 to 1")] | None]
    factors: NotRequired[list[_Factor]]


class _Columns(TypedDict):
    """``Columns`` in JSON: all lists are of one length."""

    names: list[str]
    mean: list[float]
    std: list[float]


class Record(Format):
    """run.json; a prior's has no data of its own, an older flaxvae's has no seal."""

    model: str
    arguments: dict[str, Any]  # checked against what the recipe declares
    data: dict[str, Any]  # DataSettings
    training: dict[str, Any]  # TrainSettings
    data_spec: NotRequired[_Spec]
    data_origin: NotRequired[str]
    data_sha256: NotRequired[Sha256]
    labels_sha256: NotRequired[Sha256 | None]
    data_paths: NotRequired[dict[str, str]]  # absolute; those in the settings may be relative
    data_notes: NotRequired[list[str]]
    preprocessing: NotRequired[dict[str, Any] | None]  # of pictures in files
    peak: NotRequired[Annotated[float, Within(lambda x: 0 < x < math.inf, "above 0")]]
    signed: NotRequired[bool]
    columns: NotRequired[_Columns | None]  # of a table
    parameters: NotRequired[Positive]
    model_sha256: NotRequired[Sha256]
    devices: NotRequired[str]
    units: NotRequired[str]
    cores: NotRequired[int | None]
    created: NotRequired[str]
    changes: NotRequired[list[dict[str, Any]]]
    imported: NotRequired[dict[str, Any]]  # the file that its params are from
    former: NotRequired[list[Sha256]]  # its seals before the settings were changed
    seal: NotRequired[Sha256]


class Summary(TypedDict):
    """summary.json; an older flaxvae's has fewer fields."""

    epochs: Count
    test: dict[str, Any]
    step: NotRequired[Count]
    parameters_sha256: NotRequired[Sha256]
    variables_sha256: NotRequired[Sha256]
    run: NotRequired[Sha256]  # the seal of run.json
    seal: NotRequired[Sha256]
