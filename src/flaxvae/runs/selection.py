"""Some of many runs: ``beta>=4``, ``model=*vae``, in the order of a setting or a number.

Nothing here imports JAX.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from flaxvae import declared
from flaxvae.errors import UsageError, did_you_mean
from flaxvae.runs import listing
from flaxvae.runs.listing import Entry

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(<=|>=|!=|==?|<|>)\s*(.+?)\s*", re.S)
_QUOTED = re.compile(r"""(["'])(.*)\1""", re.S)
FALLING = ("elbo", "created", "train_elbo", "validation_elbo")  # the best, or the newest, first


def where(entries: Sequence[Entry], conditions: Sequence[str]) -> list[Entry]:
    """Those that fulfil all conditions, such as ``beta>=4``; of text, ``*`` stands for any.

    A value in quotes is text, just as it is. What is not known of a run is ``none``, and fulfils no
    other condition but ``!=``.

    Raises UsageError for a name that is known of none, no condition, or -ELBO meant by ``elbo``.
    """
    found = list(entries)
    for condition in conditions:
        form = _FORM.fullmatch(condition)
        if form is None:
            raise UsageError(
                f"--where {declared.seen(condition)}: expected a name, one of = != < <= > >=, and "
                "a value, in quotes, such as 'beta>=4'"
            )
        name, sign, value = check("where", form[1], entries), form[2].replace("==", "="), form[3]
        _check_sign(condition, name, sign, value, entries)
        seen = {each.path: listing.facts(each).get(name) for each in found}
        number = _number(value)
        orders = sign not in ("=", "!=") and (number is None or math.isnan(number))
        if orders and any(map(_is_number, seen.values())):
            raise UsageError(f"--where {condition}: expected a number, as {name} is one")
        found = [each for each in found if _holds(seen[each.path], sign, value)]
    return found


ALWAYS = {
    *("run", "state", "kind", "model", "data", "epochs", "created", "parameters"),
    *("elbo", "reconstruction", "kl", "mse", "active_units", "bits_per_dim"),
}


def check(option: str, name: str, entries: Sequence[Entry]) -> str:
    """A name of what is, or can be, known of some run. Raises UsageError for any other."""
    plain, known = name.replace("-", "_"), listing.names(entries)
    if known and plain not in known and plain not in ALWAYS:
        raise UsageError(
            f"{declared.flag(option)} {name}: expected a setting, a number of summary.json, or "
            f"run, state, model, data, epochs, created{did_you_mean(plain, known)}"
        )
    return plain


def _check_sign(condition: str, name: str, sign: str, value: str, entries: Sequence[Entry]) -> None:
    """Tables show -ELBO: of negative ELBOs, ``elbo<100`` would choose all, perhaps to remove."""
    number = _number(value)
    if not name.endswith("elbo") or sign in ("=", "!=") or number is None or number <= 0:
        return
    known = [listing.facts(each).get(name) for each in entries]
    seen = [x for x in known if isinstance(x, int | float)]
    if seen and max(seen) < 0:
        turned = {"<": ">", ">": "<"}[sign[0]] + sign[1:]
        raise UsageError(
            f"--where {condition}: every {name} is negative, {min(seen):.2f} to {max(seen):.2f}, "
            f"as tables show -ELBO: expected '{name}{turned}-{value}'"
        )


def _holds(seen: Any, sign: str, value: str) -> bool:
    if seen is None:
        return sign == ("=" if value.casefold() == "none" else "!=")
    number, quoted = _number(value), _QUOTED.fullmatch(value)
    if _is_number(seen) and number is not None:
        return bool(_COMPARE[sign](seen, number))
    text, value = declared.short(seen).casefold(), (quoted[2] if quoted else value).casefold()
    if isinstance(seen, list):  # as it is typed or as it is shown: 512 256 or 512x256
        text, value = text.replace(" ", "x"), "x".join(value.split())
    if sign in ("=", "!=") and not quoted:
        return fnmatch.fnmatchcase(text, value) == (sign == "=")
    return bool(_COMPARE[sign](text, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def order(entries: Sequence[Entry], name: str, reverse: bool = False) -> list[Entry]:
    """In order of what ``name`` is for each, the smallest first; of ``FALLING`` ones, the largest.

    What is not known comes last.
    """
    name = name.replace("-", "_")
    values = {each.path: listing.facts(each).get(name) for each in entries}
    known = [each for each in entries if values[each.path] is not None]
    # Numbers before text; a list, as widths, in the order of its numbers.
    known.sort(key=lambda each: _key(values[each.path]), reverse=(name in FALLING) is not reverse)
    return [*known, *(each for each in entries if values[each.path] is None)]


def _key(value: Any) -> tuple[int, Any]:
    if isinstance(value, list):
        return 2, [_key(x) for x in value]
    return (0, value) if isinstance(value, int | float) else (1, str(value))
