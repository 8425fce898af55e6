"""SIGKILL at a random step, resume, and the same bits.

A training is killed at random moments until it has died five times, resumed each time, and its
parameters' sha256 at the end is compared with that of one that nobody disturbed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.runs import ROOT
from experiments.table import Row

CHOICES = ("--dataset", "digits", "--epochs", "600", "--latent-dim", "10")


def start(*arguments: str) -> subprocess.Popen:
    # Checkpoints every half second, so that there is something to lose between two of them.
    code = (
        "from flaxvae.training import loop; loop.CHECKPOINT_SECONDS = 0.5; "
        "from flaxvae.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *arguments], stdout=subprocess.DEVNULL
    )


def sha256(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["parameters_sha256"]


def study() -> list[Row]:
    straight, killed = ROOT / "undisturbed", ROOT / "killed"
    for path in (straight, killed):
        shutil.rmtree(path, ignore_errors=True)
    if start(*CHOICES, "--run", str(straight)).wait():
        raise RuntimeError("the undisturbed training failed")
    moment = random.Random(0)
    steps, process = [], start(*CHOICES, "--run", str(killed))
    while len(steps) < 5:
        while not (killed / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moment.uniform(2.0, 5.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = (killed / "metrics.jsonl").read_text().splitlines()[-1:]
        steps.append(json.loads(last[0])["step"] if last else 0)
        process = start("--resume", str(killed))
    if process.wait():
        raise RuntimeError("the resumed training failed")
    one, other = sha256(straight), sha256(killed)
    told = ", ".join(map(str, steps))
    budget = "600 epochs, 6,000 steps"
    return [
        Row("sha256, undisturbed", "digits", budget, one[:16] + "…", ""),
        Row(
            f"sha256, killed {len(steps)} times, after steps {told}",
            "digits",
            budget,
            other[:16] + "…",
            "the same" if one == other else "DIFFERENT",
        ),
    ]
