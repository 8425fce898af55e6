"""A whole training in a run folder, an epoch at a time, with a checkpoint after every other one.

The training goes on for as long as it is asked to, so what is timed is its steady state. Epochs
beside which a checkpoint is written have neighbours without, in the same process.
"""

from __future__ import annotations

import os
import tempfile
import threading
import traceback
from pathlib import Path

from benchmarks.case import Case
from benchmarks.contenders import ours
from flaxvae.devices import mesh as meshes
from flaxvae.plan import make_plan
from flaxvae.runs import keeper
from flaxvae.runs.folder import RunFolder
from flaxvae.settings import TrainSettings
from flaxvae.training import observers, step


class _Paced(observers.Quiet):
    """Holds a training at the end of each epoch until it may go on."""

    def __init__(self):
        self.ended, self.may_go_on = threading.Semaphore(0), threading.Semaphore(0)

    def epoch(self, record):
        self.ended.release()
        self.may_go_on.acquire()


def saved_every_other(case: Case):
    """A step is an epoch; the second one asked for, the fourth and so on begin with a save."""
    recipe, data = ours.parts(case)
    mesh, many = meshes.make(case.devices), 100_000
    settings = TrainSettings(epochs=many, batch_size=case.batch, checkpoint_every="2epochs")
    trainer, pace = step.trainer(recipe, data, settings, mesh, many), _Paced()
    folder = tempfile.TemporaryDirectory()

    def train():
        try:
            run_folder = RunFolder.create(Path(folder.name), make_plan(), {})
            keeper.fit(recipe, trainer, data, settings, mesh, run_folder, pace)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # who waits for the epoch's end would wait for ever

    threading.Thread(target=train, daemon=True).start()
    pace.ended.acquire()

    def run(epochs: int) -> None:
        for _ in range(epochs):
            pace.may_go_on.release()
            pace.ended.acquire()

    return run


CONTENDERS = {"epochs": saved_every_other}
