"""What the tests of runs that are disturbed share: how to resume them, what must be the same."""

import json

from flaxvae import cli

EPOCHS = 4  # of ten steps each


def sha256(path):
    return json.loads((path / "summary.json").read_text())["parameters_sha256"]


def rows(path):
    """metrics.jsonl but for the speed, which may differ."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "images_per_second"} for x in lines]


def steps_saved(path):
    return sorted(int(p.name) for p in (path / "checkpoints").iterdir() if p.name.isdigit())


def resume(path, capsys, *flags):
    cli.main(["train", "--resume", str(path), *flags])
    return capsys.readouterr().out


def same(path, straight):
    assert sha256(path) == sha256(straight)
    assert rows(path) == rows(straight)
    return True
