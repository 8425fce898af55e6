"""Eight fake CPU devices for every test, and no silent broadcasting between ranks."""

import collections
import gc
import os
import signal
import sys
import tempfile

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["FLAXVAE_CACHE_DIR"] = ""  # commands in processes of their own leave the user's alone
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # and import what the tests do

import jax
import numpy as np
import pytest

from disturbed import EPOCHS, steps_saved

jax.config.update("jax_numpy_rank_promotion", "raise")
# Many trainings here are the same program: compile it once, for all processes of pytest-xdist.
if "FLAXVAE_TEST_CACHE" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory()
    os.environ["FLAXVAE_TEST_CACHE"] = COMPILED.name
jax.config.update("jax_compilation_cache_dir", os.environ["FLAXVAE_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


QUICK_TO_COMPILE = (
    "--xla_cpu_use_fusion_emitters=false",  # the old ones need half the time
    "--xla_cpu_parallel_codegen_split_count=1",  # in parts a program takes longer in all
)


def pytest_configure(config):
    """Short tests are compiled quickly, for their time is compilation; long ones as users' are."""
    if "not slow" in config.option.markexpr:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of the processes that tests start
        jax.config.update("jax_disable_most_optimizations", True)
        # Which line of Python an operation is from takes time to write, and nobody reads it.
        jax.config.update("jax_include_full_tracebacks_in_locations", False)
        jax.config.update("jax_traceback_in_locations_limit", 0)
        flags = os.environ.get("XLA_FLAGS", "").split()
        if jax.__version_info__ < (0, 11):  # XLA ends a process at a flag that it does not know
            flags += [flag for flag in QUICK_TO_COMPILE if flag not in flags]
            os.environ["XLA_FLAGS"] = " ".join(flags)


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Garbage waits for the end of a file: a search in the middle of tracing is long.

    Compiled programs go then, too; with those of all files a process would need 6 GB.
    """
    gc.disable()
    yield
    gc.enable()
    jax.clear_caches()
    gc.collect()


# Of tests that train for every parameter: how many parameters make test runs. Slow tests run all.
FEW = {
    "test_a_batch_in_parts_is_the_batch": 7,
    "test_a_damaged_checkpoint_is_set_aside": 1,
    "test_a_damaged_row_is_dropped": 1,
    "test_a_key_decides_the_draws": 19,
    "test_a_run_of_own_images": 1,
    "test_a_signal_that_is_repeated_while_it_saves": 1,
    "test_a_training_in_parts_is_the_training": 1,
    "test_a_training_nobody_hears_is_a_training": 2,
    "test_a_training_whose_files_are_taken_away": 2,
    "test_after_the_last_step": 1,
    "test_an_entry_that_another_may_have_made_is_not_used": 1,
    "test_every_parameter_has_a_gradient": 1,
    "test_every_parameter_learns_at_any_size": 2,
    "test_free_bits_are_paid_for_every_unit_that_there_is": 12,
    "test_gradients_reach_every_parameter": 28,
    "test_members_of_other_numbers_share_a_program": 3,
    "test_of_more_draws_the_first_are_the_same": 8,
    "test_the_kl_by_monte_carlo_has_the_gradient_of_the_closed_form": 5,
    "test_training_on_rows_is_training_on_their_images": 1,
    "test_transpose_is_the_adjoint": 9,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    seen = collections.Counter()
    for item in items:
        name = item.name.partition("[")[0]
        marked = item.get_closest_marker("slow") is not None
        seen[name] += not marked
        if name in FEW and seen[name] > FEW[name] and not marked:
            item.add_marker(pytest.mark.slow)


def encrypted(raw: bytes) -> bytes:
    """An .npz whose first array is damaged so that it looks encrypted: a RuntimeError to read."""
    at = raw.index(b"PK\1\2") + 8
    return raw[:at] + bytes([raw[at] | 1]) + raw[at + 1 :]


def rare(values, *slow):
    """Parameters of a test of which some are run by ``make test-slow`` alone."""
    values = list(values)
    assert {*slow} <= {*values}, {*slow} - {*values}
    return [pytest.param(v, marks=pytest.mark.slow) if v in slow else v for v in values]


def said(line, capsys):
    """Exit code, stdout and stderr of ``flaxvae`` with the arguments in ``line``."""
    from flaxvae import cli

    code = 0
    try:
        cli.main(line.split())
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


@pytest.fixture(scope="session")
def assert_mean():
    """The Monte Carlo rule: a mean over axis 0 lies within five of its own standard errors."""

    def check(samples, expected=0.0, rounding=0.0):
        samples = np.asarray(samples, np.float64)
        error = 5 * samples.std(0, ddof=1) / np.sqrt(len(samples)) + rounding
        np.testing.assert_array_less(np.abs(samples.mean(0) - expected), error)

    return check


TINY = {"dataset": "digits", "net": "mlp", "widths": (32,), "latent_dim": 2, "devices": 1}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a small finished run, figures included; tests may add files to it."""
    import flaxvae

    path = tmp_path_factory.mktemp("runs") / "trained"
    flaxvae.train(progress=False, model="vae", epochs=2, run=str(path), **TINY)
    return path


@pytest.fixture
def no_figures(monkeypatch):
    """Trainings end without drawing, which takes longer than they do."""
    from flaxvae import api

    monkeypatch.setattr(api, "drawn", lambda *arguments: {})


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A run of EPOCHS epochs in one go."""
    import flaxvae

    path = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        flaxvae.train(progress=False, epochs=EPOCHS, run=str(path), **TINY)
    return path


@pytest.fixture(scope="session")
def stopped(tmp_path_factory):
    """One that SIGTERM stopped within an epoch, with checkpoints of two steps and of an epoch."""
    import flaxvae
    from flaxvae.training import loop, observers

    path = tmp_path_factory.mktemp("runs") / "stopped"

    class Stop(observers.Quiet):
        def progress(self, step, metrics, images_per_second):
            if step == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SEGMENT_SECONDS", 0)  # cut after every step
        patch.setattr(observers, "Quiet", Stop)
        with pytest.raises(loop.Stopped) as caught:
            flaxvae.train(
                progress=False, epochs=EPOCHS, run=str(path), checkpoint_every="1step", **TINY
            )
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert "step 15 of 40" in str(caught.value)
    assert f"flaxvae train --resume {path}" in str(caught.value)
    assert steps_saved(path) == [10, 14, 15] and not (path / "summary.json").exists()
    return path
