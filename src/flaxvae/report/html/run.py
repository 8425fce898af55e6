"""The page of a run, report.html: what was trained on what, how good it is, and what it shows.

What is missing, it says: a training that is not finished, a model that cannot be loaded, images
that have moved.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxvae.analysis import diagnosis
from flaxvae.analysis.evaluation import UNITS, Estimate
from flaxvae.analysis.judgement import Judgement, judge
from flaxvae.errors import DataError, counted
from flaxvae.report import explorer, words
from flaxvae.report.again import again
from flaxvae.report.html import charts, pictured
from flaxvae.report.html.charts import Series
from flaxvae.report.html.document import (
    Html,
    Section,
    command,
    details,
    document,
    join,
    table,
    tag,
)
from flaxvae.report.shown import Subject
from flaxvae.runs import contents, diagnosed, evaluated, pages, records
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.run import Run

Array = np.ndarray
_FACT = re.compile(r"([-−]?[\d,]*\.?\d+(?:e[-+]\d+)?(?: of [\d,]+)?)(?: ± ([\d.,]+))?[, ]*(.*)")
_CURVES = {"elbo": ("−ELBO", -1), "reconstruction": ("Reconstruction, −log p(x|z)", 1)}
_CURVES |= {"kl": ("KL(q(z|x) || p(z))", 1)}


def write(of: Subject, missing: Sequence[str] = ()) -> Path:
    """Write report.html into the run's folder.

    Args:
        of: the run, its test images and its numbers on them.
        missing: what to say is missing.

    Returns:
        The file.
    """
    variables = contents.digest(jax.device_get(of.run.variables))
    return pages.write(of.run.folder.path / pages.NAME, page(of, missing), variables)


def write_without_model(folder: RunFolder, why: str) -> Path:
    """The page of a run that has no model to show, and why: settings, and curves if there are."""
    missing = [f"There is no model to show: {why}."]
    head = _header(folder, None, None, missing)
    parts = [_training(folder.history()), _about(folder)]
    text = document(_title(folder), [part for part in parts if part], head, _footer(folder))
    return pages.write(folder.path / pages.NAME, text)


def page(of: Subject, missing: Sequence[str] = ()) -> str:
    """The text of report.html."""
    run, missing = of.run, list(missing)
    if not run.finished:
        folder = run.folder
        missing.insert(
            0,
            f"Training is not finished: this is step {run.step:,}. Resume with {folder.resuming}",
        )
    try:
        of.test  # noqa: B018  the data may have moved
    except (DataError, OSError) as error:
        missing.append(f"Pictures of test {run.spec.example}s are missing: {error}.")
        seen = False
    else:
        seen = True
    evaluation = _with_bound(run, of.evaluation if seen else run.summary)
    sections = [
        explorer.section(of) if seen else None,
        _training(run.folder.history()),
        *(pictured.sections(of) if seen else []),
        pictured.dimensions(run, evaluation) if not seen and evaluation else None,
        _about(run.folder),
    ]
    header = _header(run.folder, run, evaluation, missing)
    known = [part for part in sections if part]
    return document(_title(run.folder), known, header, _footer(run.folder))


def _with_bound(run: Run, evaluation: Any) -> Any:
    """An evaluation with the bound of `flaxvae eval --k`, if one of this model is on record."""
    summary = run.folder.finished()
    bound = evaluated.bound(run.folder.path, summary) if evaluation and summary else None
    if bound is None:
        return evaluation
    return dataclasses.replace(evaluation, importance_weighted_elbo=Estimate(**bound))


# ---- the top


def _title(folder: RunFolder) -> str:
    record = folder.record()
    return f"{record['model']} on {record['data_spec']['name']}"


def _header(folder: RunFolder, run: Run | None, evaluation: Any, missing: Sequence[str]) -> Html:
    record = folder.record()
    when = str(record.get("created", ""))[:10]
    said, serious = ("", False) if run is None else _diagnosis(run, evaluation)
    cards, rest = _numbers(run, evaluation) if run is not None and evaluation else ([], [])
    return join(
        [
            tag(
                "p",
                tag("b", "flaxvae"),
                f" · {folder.path.name}",
                when and f" · {when}",
                class_="kicker",
            ),
            tag("h1", tag("bdi", record["model"]), " on ", tag("bdi", record["data_spec"]["name"])),
            tag("p", said, class_="lead serious" if serious else "lead") if said else None,
            [tag("p", each, class_="notice", role="note") for each in missing],
            tag("dl", cards, class_="numbers") if cards else None,
            tag("p", rest, class_="soft", style="margin-top:1.6rem") if rest else None,
            tag("h2", "Train it again", style="font-size:1rem;margin-top:1.6rem"),
            command(again(folder)),
        ]
    )


def _numbers(run: Run, evaluation: Any) -> tuple[list[Html], list[object]]:
    """An evaluation as cards, of the terminal's numbers, and what they are of."""
    facts = words.numbers(run, evaluation)
    data, note = facts.pop("test data"), facts.pop("±", "")
    cards = []
    for name, text in facts.items():
        found = _FACT.fullmatch(text)
        name = name.replace("-", "−", 1) if name.startswith("-") else name
        if found is None:
            cards.append(tag("div", tag("dt", name), tag("dd", text)))
            continue
        number, error, unit = found.groups()
        value = [number.replace("-", "−")]
        inside: list[object] = [tag("span", value, class_="value")]
        if error:
            inside.append(tag("span", f" ± {error}", class_="error"))
        cards.append(
            tag("div", tag("dt", name), tag("dd", inside, tag("span", unit, class_="unit")))
        )
    said = f"On {data}. In {words.units([run.recipe])}" + f"; ± {note}" * bool(note) + "."
    return cards, [said]


def _diagnosis(run: Run, evaluation: Any) -> tuple[str, bool]:
    """The first sentence of `flaxvae diagnose`, if it looked at this model; else what is known from
    training alone."""
    path = run.folder.path / diagnosed.FILE
    try:
        stored = records.parse(path.read_bytes())
        if stored["step"] == run.step:
            found = [_judgement(each) for each in stored["judgements"]]
            return diagnosed.lines(found)[0], any(each.serious for each in found)
    except (OSError, ValueError, LookupError, TypeError):
        pass  # there is none, or not of this model; `flaxvae verify` says what is wrong with it
    if evaluation is None:
        return "", False
    known = diagnosis.known(run.recipe, run.plan, run.folder.history(), evaluation)
    found = judge(known)
    return diagnosed.lines(found)[0], any(each.serious for each in found)


def _judgement(stored: Any) -> Judgement:
    """A judgement as diagnosis.json has it."""
    return Judgement(
        str(stored["name"]),
        str(stored["said"]),
        tuple(map(str, stored["advice"])),
        bool(stored["serious"]),
    )


# ---- sections of every run


def _training(history: Sequence[Any]) -> Section | None:
    """Curves: the loss's terms apart, validation beside training."""
    if not history:
        return None
    epochs = [row["epoch"] for row in history]

    def column(key: str, sign: int = 1) -> list[float]:
        return [math.nan if row.get(key) is None else sign * row[key] for row in history]

    drawn = []
    for key, (title, sign) in _CURVES.items():
        parts = [
            Series(part, epochs, column(f"{part}_{key}", sign), colour=i)
            for i, part in enumerate(("train", "validation"))
        ]
        parts = [one for one in parts if np.nan_to_num(one.y).any()]
        if key == "kl" and np.isfinite(column("kl_target")).any():
            parts.append(Series("target", epochs, column("kl_target"), colour=7, dashed=True))
        if parts:
            drawn.append(charts.lines(parts, title=title, xlabel="epoch", ylabel="nats"))
    weight = column("kl_weight")
    if len({one for one in weight if math.isfinite(one)}) > 1:
        line = [Series("weight", epochs, weight, colour=7)]
        drawn.append(charts.lines(line, title="Weight of the KL", xlabel="epoch", ylabel="weight"))
    if not drawn:
        return None
    names = [key for key in history[-1] if key not in ("step", "epoch")]
    rows = [[row["epoch"], *(_cell(row.get(name)) for name in names)] for row in history]
    step = math.ceil(len(rows) / 60)
    some = rows[:-1:step] + rows[-1:]
    columns = ["epoch", *(name.replace("_", " ") for name in names)]
    numbers = details("The numbers", table(some, columns, "By epoch, terms in nats"))
    return Section("training", "Training", join([tag("div", drawn, class_="charts"), numbers]))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,.6g}".replace("-", "−")


def _about(folder: RunFolder) -> Section:
    """Settings, data and versions."""
    record, plan = folder.record(), folder.plan()
    spec = record["data_spec"]
    shape = " × ".join(map(str, spec["shape"]))
    images = f"{spec['name']}: {shape}, {spec.get('examples', 0):,} for training"
    versions = record.get("versions", {})
    facts = {
        "model": f"{plan.model}, {counted(record['parameters'], 'parameter')}; "
        + words.choices(plan).replace("_", " "),
        "data": f"{images} ({record['data_origin']})",
        "training": f"{words.training_line(plan.training)}, seed {plan.training.seed}",
        "devices": str(record.get("devices", "")),
        "units": str(record.get("units", UNITS)),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "sha256 of the images": str(record["data_sha256"]),
    }
    notes = [tag("p", note) for note in record.get("data_notes", [])]
    listed = [(tag("dt", name), tag("dd", said)) for name, said in facts.items() if said]
    return Section("run", "The run", join([tag("dl", listed, class_="facts"), notes]))


def _footer(folder: RunFolder) -> str:
    return f"Written by flaxvae into {folder.path.name}/{pages.NAME}. The page needs nothing else."
