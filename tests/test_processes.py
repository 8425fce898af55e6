"""The example of docs/processes.md works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxvae

PAGE = Path(__file__).parents[1] / "docs" / "processes.md"


@pytest.mark.slow
def test_spawned_processes_compute_what_this_one_does(trained, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    script = tmp_path / "example.py"
    script.write_text(example)
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": os.environ["FLAXVAE_TEST_CACHE"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, str(script), str(trained)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    run = flaxvae.load(trained)
    parts = np.array_split(run.data().test.x, 8)
    expected = np.concatenate([run.score(x) for x in parts]).mean()
    assert float(done.stdout) == pytest.approx(expected, rel=1e-5)
