"""A run in a terminal: a header, a progress bar, a few lines, a summary with next steps.

The bar is Rich's, which honours ``NO_COLOR``; in a file or a pipe the same lines appear without it
and without escape codes. Of many epochs about twenty are printed, including the first and the last.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from flaxvae.errors import Finding, counted, visible

LINES, QUIET = 20, 10.0  # epoch lines in all; seconds between progress lines without a bar
COLUMNS = {  # a record's keys and their column headings
    "train_elbo": "train -ELBO",
    "train_reconstruction": "reconstruction",
    "train_kl": "KL",
    "validation_elbo": "validation -ELBO",
    "validation_reconstruction": "validation rec.",
    "images_per_second": "images/s",
}


class Terminal:
    """Reports a run; a context manager that leaves the terminal as it found it."""

    def __init__(self, stream: TextIO | None = None, width: int | None = None) -> None:
        self._stream = stream or sys.stdout
        self._tty = self._stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._width = width or (min(shutil.get_terminal_size().columns, 100) if self._tty else 80)
        self._console: Any = None
        if self._tty:
            from rich.console import Console

            self._console = Console(file=self._stream, width=self._width, force_terminal=True)
        self._bar: Any = None
        self._columns: list[str] = []
        self._unprinted: Mapping[str, Any] | None = None
        self._empty = False  # the last line

    @property
    def width(self) -> int:
        """Characters in a line."""
        return self._width

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def header(self, facts: Mapping[str, str]) -> None:
        """What is about to run: names and values in two columns."""
        self._table(facts)
        self._line()

    def start(self, total_steps: int, steps_per_epoch: int, done: int = 0) -> None:
        """Begin, or resume after ``done`` steps; ends the report of any earlier training."""
        self.close()
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._epochs = math.ceil(total_steps / steps_per_epoch)
        self._every = math.ceil((self._epochs - done // steps_per_epoch) / LINES) or 1
        self._first: tuple[int, float] | None = None
        self._started = self._spoke = time.monotonic()
        if self._tty:
            from rich.progress import BarColumn, Progress, TextColumn

            left = TextColumn("epoch {task.fields[epoch]}")
            bar = BarColumn(bar_width=None, style="dim", complete_style="cyan")
            right = TextColumn("{task.percentage:>3.0f} %  {task.fields[rest]}")
            quiet: dict[str, Any] = {"auto_refresh": False, "transient": True, "expand": True}
            self._bar = Progress(left, bar, right, console=self._console, **quiet)
            now = self._epoch_of(done + 1)
            self._bar.add_task("", total=total_steps, completed=done, epoch=now, rest="starting")
            self._bar.start()

    def progress(self, step: int, metrics: Mapping[str, float], images_per_second: float) -> None:
        """After ``step`` steps: move the bar, or now and then write a line."""
        now = time.monotonic()
        if self._first is None or step < self._first[0]:  # compiled, or rolled back
            self._first = step, now
        done, spent = step - self._first[0], now - self._first[1]
        left = spent / done * (self._total - step) if done else None
        text = f"ETA {_duration(left)}  {images_per_second:,.0f} images/s  {_headline(metrics)}"
        if self._bar:
            self._bar.update(0, completed=step, epoch=self._epoch_of(step), rest=text)
            self._bar.refresh()
        elif now - self._spoke >= max(
            QUIET, (now - self._started) / 10
        ):  # less often as time goes by
            self._line(f"    epoch {self._epoch_of(step)}  {100 * step // self._total} %  {text}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """A finished epoch, a row of ``metrics.jsonl``: a line, unless there are many."""
        self._unprinted, number = record, record["epoch"]
        if not self._columns or number % self._every == 0 or number == self._epochs:
            self._print_epoch()

    def stage(self, what: str, done: int = 0, total: int = 0) -> None:
        """What happens after the last epoch, and its progress: in the bar, else in a line."""
        if self._unprinted:
            self._print_epoch()
        if self._bar:
            self._bar.update(0, rest=f"{what}, {done:,} of {total:,}" if total else what)
            self._bar.refresh()
        elif not done:
            self._line(f"    {what}")

    def watch(self, what: str) -> Callable[[int, int], None]:
        """A callback ``(done, total)`` in images, for long work that is not training.

        Short work is not reported.
        """
        started = time.monotonic()
        spoke = [started]

        def report(done: int, total: int) -> None:
            now = time.monotonic()
            wait = 0.5 if self._tty else QUIET
            if now - spoke[0] < wait and not (done == total and spoke[0] > started):
                return
            spoke[0], spent = now, max(now - started, 1e-9)
            left = _duration(spent / done * (total - done))
            speed = f"ETA {left}  {done / spent:,.1f} images/s"
            text = f"{what}: {done:,} of {counted(total, 'image')}  {speed}"
            if self._tty:  # one line that is overwritten, and cleared at the end
                print("\r" + text.ljust(self._width - 1), end="", file=self._stream, flush=True)
                if done == total:
                    print("\r" + " " * (self._width - 1) + "\r", end="", file=self._stream)
            else:
                self._line(text)

        return report

    def note(self, text: str) -> None:
        """A remark on a line of its own."""
        for line in textwrap.wrap(text, self._width, subsequent_indent="  "):
            self._line(line)

    def finding(self, finding: Finding) -> None:
        """The result of a check: ok, wrong, or a remark."""
        mark = {True: "ok", False: "wrong", None: "-"}[finding.ok]
        start = f"{mark:<7}{finding.what:<15} "
        indent = " " * (len(start) if len(finding.what) <= 15 else 9)
        quiet: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
        lines = textwrap.wrap(start + finding.said, self._width, subsequent_indent=indent, **quiet)
        for line in lines:
            self._line(line, dim=7 if finding.ok else 0)

    def table(self, lines: Sequence[str]) -> None:
        """Preformatted lines, the first of which is a heading."""
        self.close()
        if not self._empty:
            self._line()
        for number, line in enumerate(lines):
            self._line(line, dim=0 if number else len(line))

    def summary(self, facts: Mapping[str, str], next_commands: Sequence[tuple[str, str]]) -> None:
        """The result, and what to do next; commands are never wrapped."""
        self.close()
        digits = {k: m.end() for k, v in facts.items() if (m := re.match(r"[-−]?[\d,]+", v))}
        widest = max(digits.values(), default=0)  # numbers line up at their units
        if facts or not next_commands:
            self._line()
        self._table({k: " " * (widest - digits.get(k, widest)) + v for k, v in facts.items()})
        self._line()
        if next_commands:
            self._line("Next:")
        column = max([len(command) for command, _ in next_commands], default=0)
        fits = all(column + len(words) + 4 <= self._width for _, words in next_commands)
        for command, words in next_commands:
            self._line(f"  {command:<{column}}  {words}" if fits else f"  {command}")
            if not fits:
                self.note(f"      {words}")

    def close(self) -> None:
        """Remove the bar, show the cursor again, and print an epoch not printed yet."""
        if self._bar:
            self._bar.stop()
        self._bar = None
        if self._unprinted:
            self._print_epoch()

    def _print_epoch(self) -> None:
        record, self._unprinted = self._unprinted or {}, None
        columns = [key for key in COLUMNS if record.get(key) is not None or key in self._columns]
        useless = "validation_reconstruction" if "train_elbo" in columns else "train_kl"
        columns = [key for key in columns if key != useless]
        if columns != self._columns:
            self._columns = columns
            self._line("  ".join(["    epoch", *(f"{COLUMNS[k]:>8}" for k in columns)]), dim=80)
        line = f"{record['epoch']}/{self._epochs}".rjust(9)
        for key in columns:
            value, sign = record.get(key), -1 if key.endswith("elbo") else 1
            places = 0 if key == "images_per_second" else 2
            text = "" if value is None else _number(sign * value, places)
            line += "  " + text.rjust(max(8, len(COLUMNS[key])))
        self._line(line.rstrip())

    def _epoch_of(self, step: int) -> str:
        return f"{min(max(step - 1, 0) // self._per_epoch + 1, self._epochs)}/{self._epochs}"

    def _table(self, facts: Mapping[str, str]) -> None:
        column = max(map(len, facts), default=0) + 2
        for name, value in facts.items():
            for line in textwrap.wrap(
                value, max(self._width - column, 20), break_on_hyphens=False
            ) or [""]:
                self._line(f"{name:<{column}}{line}".rstrip(), dim=column)
                name = ""

    def _line(self, text: str = "", dim: int = 0) -> None:
        """Write a line, its first ``dim`` characters dimmed on a terminal."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = visible(text).encode(encoding, "replace").decode(encoding)
        self._spoke, self._empty = time.monotonic(), not text
        if self._console:
            from rich.text import Text

            self._console.print(Text.assemble((text[:dim], "dim"), text[dim:]), soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)


def _headline(metrics: Mapping[str, float]) -> str:
    """The one number to watch: -ELBO, else the reconstruction term, else the loss."""
    known = {key.removeprefix("train_"): value for key, value in metrics.items()}
    if "elbo" in known:
        return f"-ELBO {_number(-known['elbo'])}"
    return next((f"{k} {_number(known[k])}" for k in ("reconstruction", "loss") if k in known), "")


def _number(value: float, places: int = 2) -> str:
    return f"{value:,.{places}f}" if 0.1 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"
