"""Eight fake CPU devices for every test, and no silent broadcasting between ranks."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def assert_mean():
    """The Monte Carlo rule: a mean over axis 0 lies within five of its own standard errors."""

    def check(samples, expected=0.0, rounding=0.0):
        samples = np.asarray(samples, np.float64)
        error = 5 * samples.std(0, ddof=1) / np.sqrt(len(samples)) + rounding
        np.testing.assert_array_less(np.abs(samples.mean(0) - expected), error)

    return check
