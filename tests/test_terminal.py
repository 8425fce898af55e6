"""Training as read in a terminal and in a log: few lines, 80 columns, nothing left behind."""

from __future__ import annotations

import io
import itertools
import re

import pytest

from flaxvae.errors import counted
from flaxvae.plan import make_plan
from flaxvae.report import terminal, words
from flaxvae.report.terminal import Terminal

FACTS = {
    "devices": "1 x cpu",
    "data": "55,000 training, 5,000 validation and 10,000 test images, 28 x 28 x 1 [binarised]",
    "run": "runs/" + "a-very-long-name-" * 8,
}
NEXT = [("flaxvae sample runs/1", "draw samples"), ("flaxvae evaluate runs/1", "the test set")]


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ticks = itertools.count(0.0, 0.5)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(ticks))


def record(epoch: int, **more: float) -> dict[str, float]:
    row = {"epoch": epoch, "train_reconstruction": 80.0, "images_per_second": 23456.7}
    return row | more


def vae(epoch: int) -> dict[str, float]:
    return record(epoch, train_elbo=-104.3, train_kl=24.3, validation_elbo=-107.1)


def train(stream: io.StringIO, epochs: int, per_epoch: int = 4) -> str:
    with Terminal(stream, width=80) as report:
        report.header(FACTS)
        report.start(epochs * per_epoch, per_epoch)
        for epoch in range(1, epochs + 1):
            for step in range(1, per_epoch + 1):
                report.progress((epoch - 1) * per_epoch + step, {"elbo": -104.3}, 23456.7)
            report.epoch(vae(epoch))
        report.summary({"test -ELBO": "97.31 nats", "active units": "7 of 20"}, NEXT)
    return stream.getvalue()


def epochs_in(text: str, total: int) -> list[int]:
    firsts = [line.split()[0] for line in text.splitlines() if f"/{total} " in line]
    return [int(first.split("/")[0]) for first in firsts if first.endswith(f"/{total}")]


@pytest.mark.parametrize("epochs", [1, 7, 200])
def test_plain_output_is_plain_narrow_and_short(epochs: int) -> None:
    text = train(io.StringIO(), epochs)
    assert "\x1b" not in text and "\r" not in text
    assert max(map(len, text.splitlines())) <= 80
    shown = epochs_in(text, epochs)
    assert len(shown) <= 22 and shown[0] == 1 and shown[-1] == epochs
    assert epochs > 20 or shown == list(range(1, epochs + 1))
    assert len(text.splitlines()) < 90


def test_the_columns_hold_what_their_headings_say() -> None:
    lines = train(io.StringIO(), 1).splitlines()
    at = next(i for i, line in enumerate(lines) if "train -ELBO" in line)
    headings = ["epoch", "train -ELBO", "reconstruction", "KL", "validation -ELBO", "images/s"]
    assert re.split(r"  +", lines[at].strip()) == headings
    assert lines[at + 1].split() == ["1/1", "104.30", "80.00", "24.30", "107.10", "23,457"]
    assert len(lines[at]) == len(lines[at + 1])


def test_an_autoencoder_has_no_elbo_and_no_kl() -> None:
    stream = io.StringIO()
    with Terminal(stream) as report:
        report.start(1, 1)
        report.epoch(record(1, train_kl=0.0))
    assert "ELBO" not in stream.getvalue() and "KL" not in stream.getvalue()
    assert "reconstruction" in stream.getvalue()


def test_a_run_that_stops_early_still_prints_its_last_epoch() -> None:
    stream = io.StringIO()
    with Terminal(stream) as report:
        report.start(200, 1)
        for epoch in range(1, 58):
            report.epoch(vae(epoch))
    assert epochs_in(stream.getvalue(), 200)[-1] == 57


def test_a_resumed_run_prints_for_what_is_left() -> None:
    stream = io.StringIO()
    with Terminal(stream) as report:
        report.start(200, 1, done=190)
        for epoch in range(191, 201):
            report.epoch(vae(epoch))
    assert epochs_in(stream.getvalue(), 200) == list(range(191, 201))


def test_a_terminal_shows_epoch_percentage_eta_and_speed() -> None:
    text = train(Screen(), 3)
    assert "ETA 0m 0" in text and "23,457 images/s" in text and "-ELBO 104.30" in text
    assert "epoch 2/3" in text and " 50 %" in text


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_cursor_comes_back_after_an_exception(error: type[BaseException]) -> None:
    screen = Screen()
    with pytest.raises(error), Terminal(screen, width=80) as report:
        report.start(10, 5)
        report.progress(1, {"loss": 1.0}, 10.0)
        raise error
    text = screen.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = "\x1b[36m"
    assert colour in train(Screen(), 2)
    monkeypatch.setenv("NO_COLOR", "1")
    assert colour not in train(Screen(), 2)


def test_plain_progress_is_rare() -> None:
    stream = io.StringIO()
    report = Terminal(stream)
    report.start(10_000, 10_000)
    for step in range(1, 7200):  # an hour, as the fixture's clock goes
        report.progress(step, {"loss": 2.0}, 50.0)
    lines = stream.getvalue().splitlines()
    assert 10 < len(lines) < 70
    assert all("ETA" in line and len(line) <= 80 for line in lines)


def test_commands_are_never_broken_and_numbers_line_up() -> None:
    stream, long = io.StringIO(), "flaxvae sample " + "x" * 90
    Terminal(stream).summary({"a": "7 of 20", "bcd": "-1,197.3 nats"}, [(long, "draw samples")])
    lines = stream.getvalue().splitlines()
    assert f"  {long}" in lines and "      draw samples" in lines
    assert lines[1].index("7") == lines[2].index("7.3")


def test_a_stream_that_knows_no_unicode_does_not_stop_a_run() -> None:
    raw = io.BytesIO()
    with Terminal(io.TextIOWrapper(raw, encoding="ascii", write_through=True)) as report:
        report.note("β = 4")
    assert raw.getvalue() == b"? = 4\n"


def after_training(stream: io.StringIO) -> str:
    with Terminal(stream, width=80) as report:
        report.start(8, 4)
        report.epoch(vae(1))
        report.stage("evaluating 360 test images")
        for done in range(7):
            report.stage("drawing figures", done, 7)
        report.summary({}, [])
    return stream.getvalue()


def test_after_the_last_epoch_the_bar_says_what_goes_on() -> None:
    text = after_training(Screen())
    assert "evaluating 360 test images" in text
    assert text.index("evaluating") < text.index("drawing figures, 0 of 7")
    assert all(f"drawing figures, {done} of 7" in text for done in range(7))


def test_in_a_log_each_stage_is_a_line_after_the_epochs() -> None:
    lines = after_training(io.StringIO()).splitlines()
    at = lines.index("    evaluating 360 test images")
    assert "1/2" in lines[at - 1] and lines[at + 1 :] == ["    drawing figures", "", ""]


def test_an_epoch_held_back_comes_before_what_follows() -> None:
    stream = io.StringIO()
    with Terminal(stream) as report:
        report.start(200, 1)
        for epoch in range(1, 58):
            report.epoch(vae(epoch))
        report.stage("evaluating")
    lines = stream.getvalue().splitlines()
    assert lines[-1] == "    evaluating" and "57/200" in lines[-2]


def test_long_work_is_told_in_a_log_only_if_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(stream: io.StringIO, seconds: float) -> str:
        ticks = itertools.count(0.0, seconds / 4)
        monkeypatch.setattr(terminal.time, "monotonic", lambda: next(ticks))
        with Terminal(stream, width=80) as report:
            watch = report.watch("evaluating")
            for done in (1, 2, 3):
                watch(done, 3)
        return stream.getvalue()

    assert told(io.StringIO(), 1.0) == ""
    assert told(io.StringIO(), 60.0).count("evaluating: ") == 3
    assert "evaluating: 3 of 3 images" in told(io.StringIO(), 60.0)
    assert "evaluating: 1 of 3 images" in told(Screen(), 4.0)


def test_one_training_after_another_has_a_bar_of_its_own() -> None:
    screen = Screen()
    with Terminal(screen, width=80) as report:
        for _ in range(2):
            report.start(4, 4)
            report.progress(2, {"elbo": -1.0}, 10.0)
            report.epoch(vae(1))
            shown = [screen.getvalue().count(f"\x1b[?25{state}") for state in "lh"]
    assert shown == [2, 1] and screen.getvalue().count("\x1b[?25h") == 2


def test_a_switch_is_named_only_if_it_is_on_and_a_zero_is_a_number() -> None:
    plain, hard = (
        words.choices(make_plan("gumbel_vae", beta=0.0, straight_through=on))
        for on in (False, True)
    )
    assert "straight_through" not in plain and "False" not in plain and "beta 0" in plain
    assert "straight_through" in hard and "True" not in hard


def test_counts() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 2, 1000)] == [
        "0 epochs",
        "1 epoch",
        "2 epochs",
        "1,000 epochs",
    ]
    assert counted(1, "class", "classes") + counted(2, "class", "classes") == "1 class2 classes"
