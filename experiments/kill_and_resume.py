"""SIGKILL at a random step, resume, and the same bits.

A training is killed five times at random moments and resumed each time. The sha256 of its final
parameters is compared with that of an undisturbed training.
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
from experiments.table import Beside, Row

# Checkpoints every half second, so that steps between two of them can be lost.
FLAGS = ("--dataset", "digits", "--epochs", "1000", "--latent-dim", "10")
FLAGS += ("--checkpoint-every", "0.5s")
BESIDE: list[Beside] = []


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flaxvae", "train", *arguments], stdout=subprocess.DEVNULL
    )


def sha256(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["parameters_sha256"]


def last_step(run: Path) -> int:
    """The last step in metrics.jsonl, or 0."""
    path = run / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return json.loads(rows[-1])["step"] if rows else 0


def study() -> list[Row]:
    straight, killed = ROOT / "undisturbed", ROOT / "killed"
    for path in (straight, killed):
        shutil.rmtree(path, ignore_errors=True)
    if start(*FLAGS, "--run", str(straight)).wait():
        raise RuntimeError("the undisturbed training failed")
    moment = random.Random(0)
    steps, process = [], start(*FLAGS, "--run", str(killed))
    while len(steps) < 5:
        before = last_step(killed)
        while last_step(killed) <= before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moment.uniform(0.0, 2.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps.append(last_step(killed))
        process = start("--resume", str(killed))
    if process.wait():
        raise RuntimeError("the resumed training failed")
    one, other = sha256(straight), sha256(killed)
    told = ", ".join(map(str, steps))
    budget = "1,000 epochs, 10,000 steps"
    return [
        Row("sha256, undisturbed", "digits", budget, one[:16] + "…"),
        Row(
            f"sha256, killed {len(steps)} times, in the epochs after steps {told}",
            "digits",
            budget,
            f"{other[:16]}…, {'the same' if one == other else 'DIFFERENT'}",
        ),
    ]
