"""What the tests of runs that are disturbed share: when to disturb, how to resume, what must be."""

import json
import time

from flaxvae import cli
from flaxvae.plan import Plan

EPOCHS = 4  # of ten steps each


def sha256(path):
    return json.loads((path / "summary.json").read_text())["parameters_sha256"]


def summary(path):
    """summary.json but for what tells its run from others."""
    found = json.loads((path / "summary.json").read_text())
    return {name: value for name, value in found.items() if name not in ("run", "seal")}


def rows(path):
    """metrics.jsonl but for the speed, which may differ."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "images_per_second"} for x in lines]


def steps_saved(path):
    return sorted(int(p.name) for p in path.glob("checkpoints/*") if p.name.isdigit())


def newest(path):
    """The step of the newest checkpoint, -1 where there is none yet."""
    return max(steps_saved(path), default=-1)


def spoiled(change, recipe=Plan.recipe):
    """A ``Plan.recipe`` whose losses return ``change(step, value, metrics, updates)``."""

    def made(plan, spec):
        sound = recipe(plan, spec)

        def objective(model):
            loss = sound.objective(model)

            def changed(variables, key, batch, step):
                value, (metrics, updates) = loss(variables, key, batch, step)
                return change(step, value, metrics, updates)

            return changed

        return sound._replace(objective=objective)

    return made


def loss_times(factor):
    """For ``spoiled``: the loss of a step is multiplied by ``factor(step)``."""

    def change(step, value, metrics, updates):
        by = factor(step)
        return value * by, ({**metrics, "loss": metrics["loss"] * by}, updates)

    return change


def wait_for(happened, seconds=300):
    """Whoever waits in vain fails: no test hangs."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"waited {seconds} seconds in vain"
        time.sleep(0.005)


def wait_for_a_save(path, seen, *processes):
    """Until there is a checkpoint newer than step ``seen``, or one of the processes has ended."""
    wait_for(lambda: newest(path) > seen or any(p.poll() is not None for p in processes))


def resume(path, capsys, *flags):
    cli.main(["train", "--resume", str(path), *flags])
    return capsys.readouterr().out


def same(path, straight):
    assert sha256(path) == sha256(straight)
    assert rows(path) == rows(straight)
    return True
