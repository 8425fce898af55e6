"""Is all here that a training needs? What the machine and the installation are, thing by thing."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path

import jax
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flaxvae import __version__, compilation, machine
from flaxvae.data import pipeline, sources
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, Finding, Stopped
from flaxvae.machine import versions
from flaxvae.plan import make_plan
from flaxvae.runs import keeper
from flaxvae.runs import run as trained
from flaxvae.runs.contents import digest
from flaxvae.runs.folder import RunFolder
from flaxvae.training import step as steps

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
CUDA_DRIVERS = {"cuda13": 580, "cuda12": 525}  # the first driver that each runs with
ROOM = 100 * 2**20  # bytes on the disk that a run of MNIST wants


def examine() -> Iterator[Finding]:
    """What is well, what is wrong, and what else is worth knowing; the self-test comes last."""
    yield from _versions(*_asked())
    yield from _devices()
    yield Finding(True, "machine", _machine())
    for dataset in sources.SOURCES:
        yield sources.find(dataset)
    yield _cache()
    yield _disk(Path.cwd())
    yield _finding("self-test", _self_test)


def _finding(what: str, check: Callable[[], str]) -> Finding:
    """A finding of a check that returns what is well; whatever it raises is what is wrong."""
    try:
        return Finding(True, what, check())
    except Stopped:
        raise
    except Exception as error:
        return Finding(False, what, " ".join(f"{type(error).__name__}: {error}".split())[:300])


def _asked() -> tuple[SpecifierSet, dict[str, SpecifierSet]]:
    """Versions of Python and of packages that pyproject.toml asks for."""
    source = Path(__file__).parents[2] / "pyproject.toml"
    if source.is_file():  # a source tree, of which another version may be installed
        project = tomllib.loads(source.read_text())["project"]
        python, packages = project["requires-python"], project["dependencies"]
    else:
        found = metadata.metadata("flaxvae")
        python, packages = found["Requires-Python"], metadata.requires("flaxvae") or []
    requirements = [Requirement(line) for line in packages]
    return SpecifierSet(python), {r.name: r.specifier for r in requirements if not r.marker}


def _versions(python: SpecifierSet, asked: dict[str, SpecifierSet]) -> Iterator[Finding]:
    yield _version("Python", platform.python_version(), python)
    found = versions()
    names = [name for name in PACKAGES if name in asked]
    each = [_version(name, found[name], asked[name]) for name in names]
    good = [f"{finding.what} {found[finding.what]}" for finding in each if finding.ok]
    yield Finding(True, "packages", ", ".join([f"flaxvae {__version__}", *good]))
    yield from (finding for finding in each if not finding.ok)


def _version(name: str, found: str, asked: SpecifierSet) -> Finding:
    ok = found[:1].isdigit() and asked.contains(found, prereleases=True)
    return Finding(ok, name, found if ok else f"{found}: expected {asked}")


def _devices() -> Iterator[Finding]:
    found = _finding("devices", lambda: meshes.describe(meshes.make()))
    yield found
    if found.ok and jax.devices()[0].platform == "cpu" and machine.nvidia():
        yield Finding(None, "GPU", f"an NVIDIA GPU is present, but {_why_no_gpu()}")


def _why_no_gpu() -> str:
    """Why JAX does not use the NVIDIA GPU that is here, and what to do."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "JAX_PLATFORMS=cpu hides it"
    driver = machine.nvidia_driver()
    major = int(driver.partition(".")[0]) if driver else None
    fits = [name for name, first in CUDA_DRIVERS.items() if major is None or major >= first]
    if not fits:
        oldest = min(CUDA_DRIVERS.values())
        return f"its driver is {driver}: expected {oldest} or newer; update the driver"
    installed = [name for name in CUDA_DRIVERS if util.find_spec(f"jax_{name}_plugin")]
    if set(installed) & set(fits):
        return f"jax cannot use it with its {installed[0]} plugin; see what `nvidia-smi` says"
    why = f"of no use with driver {driver}" if installed else "missing"
    other = "" if major else " (for a driver older than 580, cuda12)"
    advice = f"`make train ACCEL={fits[0]}`, or pip install 'flaxvae[{fits[0]}]'{other}"
    return f"jax's CUDA plugin is {why}: {advice}"


def _machine() -> str:
    count, memory = machine.cores(), machine.memory()
    cores = "1 core" if count == 1 else f"{count} cores"
    return cores + ("" if memory is None else f", {_size(memory)} of memory")


def _cache() -> Finding:
    """The cache of compiled programs; without it all works, more slowly."""
    path, own = compilation.folder(), compilation.jaxs_own()
    if own and own != str(path):
        return Finding(True, "cache", f"JAX's own settings: {own}")
    if path is None:
        return Finding(None, "cache", "off: FLAXVAE_CACHE_DIR is empty")
    if not compilation.writable(path):
        why = f"{path} cannot be written, so nothing is kept; FLAXVAE_CACHE_DIR names another"
        return Finding(None, "cache", why)
    others = compilation.exposed(path)
    if others is not None:
        return Finding(None, "cache", f"nothing is kept: {others}")
    used, limit = _size(compilation.size(path)), _size(compilation.LIMIT)
    return Finding(True, "cache", f"{used} of at most {limit}, in {path}")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{_size(free)} free in the current folder"
    if free < ROOM:
        return Finding(False, "disk", f"{said}: expected {_size(ROOM)} or more")
    if not os.access(folder, os.W_OK):
        return Finding(False, "disk", f"{folder} cannot be written: expected a folder for runs/")
    return Finding(True, "disk", said)


def _self_test() -> str:
    """Train a small model on digits, on all devices; what is restored must be what was saved."""
    started, mesh = time.monotonic(), meshes.make()
    batch = max(128 // mesh.size, 1) * mesh.size
    plan = make_plan(net="mlp", widths=(32,), latent_dim=2, epochs=5, batch_size=batch)
    data = pipeline.prepare(plan.data)
    recipe = plan.recipe(data.spec)
    trainer = steps.trainer(recipe, data, plan.training, mesh, plan.training.epochs or 0)
    facts = {"data_spec": data.spec._asdict(), "peak": data.peak}
    with tempfile.TemporaryDirectory(prefix="flaxvae-doctor-") as folder:
        run = RunFolder.create(Path(folder, "run"), plan, facts)
        variables, history = keeper.fit(recipe, trainer, data, plan.training, mesh, run)
        restored = trained.opened(run.path).variables
    first, last = history[0]["train_elbo"], history[-1]["train_elbo"]
    if not last > first:
        raise DataError(f"the ELBO went from {first:.2f} to {last:.2f} nats: expected it to rise")
    if digest(jax.device_get(restored)) != digest(jax.device_get(variables)):
        raise DataError("the restored parameters differ from the saved ones: expected the same")
    took = time.monotonic() - started
    return f"trained, saved and restored, bit for bit, in {took:.0f} s"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}".replace(".0 ", " ")
    return f"{count / 2**10:,.0f} KiB"
