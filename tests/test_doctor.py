"""What `flaxvae doctor` says of a machine that is well, and of one with a real fault."""

import os
import shutil

import jax
import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

from flaxvae import cli, compilation, doctor, machine
from flaxvae.data import idx, sources
from flaxvae.errors import Finding

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Jan  2 03:04:05 UTC 2024\n"


def test_all_is_well(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FLAXVAE_DATA_DIR", raising=False)
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    cli.main(["doctor"])
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out and max(map(len, out.splitlines())) <= 80
    marks = {line[7:22].strip(): line[:7].strip() for line in out.splitlines() if line[0] != " "}
    named = [*sources.SOURCES, "Python", "packages", "devices", "machine", "cache", "disk"]
    assert marks.keys() == {*named, "self-test"} and "wrong" not in marks.values()
    assert f"jax {jax.__version__}, " in out and f"{len(jax.devices())} x cpu" in out
    assert "bit for bit" in out and not any(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["restore", "learning"])
def test_a_self_test_that_fails(tmp_path, monkeypatch, capsys, fault):
    fit = doctor.keeper.fit

    def spoilt(*arguments):
        variables, history = fit(*arguments)
        if fault == "restore":
            variables = jax.tree.map(lambda x: np.nextafter(x, np.float32(9)), variables)
        return variables, history if fault == "restore" else history[::-1]

    monkeypatch.setattr(doctor.keeper, "fit", spoilt)
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    out, err = capsys.readouterr()
    assert stop.value.code == 3 and err == "flaxvae: failed: self-test\n"
    words = {"restore": "restored parameters differ", "learning": "expected it to rise"}
    assert words[fault] in " ".join(out.split()) and not any(tmp_path.iterdir())


def test_versions_that_are_not_as_asked(monkeypatch):
    monkeypatch.setattr(doctor, "versions", lambda: {"jax": "0.9.1", "flax": "not installed"})
    asked = {"jax": SpecifierSet(">=0.10"), "flax": SpecifierSet(">=0.12")}
    python, packages, *wrong = doctor._versions(SpecifierSet(">=99"), asked)
    assert not python.ok and python.said.endswith(": expected >=99") and "jax" not in packages.said
    assert wrong == [
        Finding(False, "jax", "0.9.1: expected >=0.10"),
        Finding(False, "flax", "not installed: expected >=0.12"),
    ]


def test_what_is_asked_for_is_what_pyproject_says():
    python, packages = doctor._asked()
    assert python.contains("3.11.0") and not python.contains("3.10.9")
    assert set(doctor.PACKAGES) <= set(packages) and not packages["jax"].contains("0.9")


# ---- an NVIDIA GPU that jax does not use


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine with an NVIDIA GPU, as Linux shows it."""
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "DEV", tmp_path)
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    return tmp_path


def of_gpu():
    """What is said of the GPU; None if nothing is."""
    found = {finding.what: finding for finding in doctor._devices()}
    assert found["devices"].ok
    return found["GPU"].said if "GPU" in found else None


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("580.65.06", "ACCEL=cuda13`"),
        ("610.1", "ACCEL=cuda13`"),
        ("570.124.06", "ACCEL=cuda12`"),
        ("525.60.13", "ACCEL=cuda12`"),
        ("470.57.02", "its driver is 470.57.02: expected 525 or newer"),
    ],
)
def test_a_gpu_without_a_plugin(gpu, driver, words):
    assert of_gpu() is None
    (gpu / "driver" / "nvidia" / "version").write_text(DRIVER.format(driver))
    assert machine.nvidia() and machine.nvidia_driver() == driver
    assert words in of_gpu() and "an NVIDIA GPU is present, but" in of_gpu()


def test_a_driver_that_only_nvidia_smi_tells(gpu):
    (gpu / "nvidia0").touch()
    assert machine.nvidia_driver() is None
    assert "ACCEL=cuda13" in of_gpu() and "older than 580, cuda12" in of_gpu()
    (gpu / "nvidia-smi").write_text("#!/bin/sh\necho 550.54.15\n")
    (gpu / "nvidia-smi").chmod(0o755)
    assert "ACCEL=cuda12" in of_gpu() and "older" not in of_gpu()
    (gpu / "nvidia-smi").write_text("#!/bin/sh\necho failed: no devices >&2; exit 9\n")
    assert machine.nvidia_driver() is None


def test_a_gpu_with_a_plugin_that_does_not_work(gpu, monkeypatch):
    (gpu / "driver" / "nvidia" / "version").write_text(DRIVER.format("570.1"))
    have = {"jax_cuda12_plugin"}
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: name in have or None)
    assert "cannot use it with its cuda12 plugin" in of_gpu()
    have = {"jax_cuda13_plugin"}
    assert "of no use with driver 570.1: `make train ACCEL=cuda12`" in of_gpu()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_PLATFORMS=cpu hides it" in of_gpu()


# ---- data, cache, disk


def idx_folder(path):
    path.mkdir(parents=True)
    for name, count in zip(idx.FILES, (4, 4, 2, 2)):
        shape = (count, 8, 8) if "images" in name else (count,)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        (path / name).write_bytes(header + bytes(int(np.prod(shape))))
    return path


def test_idx_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXVAE_DATA_DIR", str(tmp_path))
    folder = idx_folder(tmp_path / "mnist")
    assert sources.find("mnist") == Finding(True, "mnist", f"IDX files in {folder}")
    assert sources.find("kmnist").ok is None and "no IDX files" in sources.find("kmnist").said
    (folder / idx.FILES[0]).write_bytes(b"\0\0\x08\x03")
    assert sources.find("mnist").ok is False and "download it again" in sources.find("mnist").said
    (folder / idx.FILES[0]).unlink()
    assert sources.find("mnist").ok is False and idx.FILES[0] in sources.find("mnist").said
    monkeypatch.setenv("FLAXVAE_DATA_DIR", str(tmp_path / "absent"))
    assert sources.find("mnist").ok is False and "no such folder" in sources.find("mnist").said
    assert sources.find("digits").ok


def test_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.delenv("FLAXVAE_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sources.tfds, "find_spec", lambda name: None)
    assert "pip install 'flaxvae[tfds]'" in sources.find("kmnist").said
    monkeypatch.setattr(sources.tfds, "find_spec", lambda name: True)
    assert sources.find("kmnist").ok is None and "downloads" in sources.find("kmnist").said
    (tmp_path / "kmnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "kmnist" / "3.0.1" / "dataset_info.json").touch()
    assert sources.find("kmnist").ok and str(tmp_path / "kmnist") in sources.find("kmnist").said


def test_cache(tmp_path, monkeypatch):
    assert doctor._cache().said.startswith("JAX's own settings")
    own = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("FLAXVAE_CACHE_DIR", "")
        assert doctor._cache().ok is None and "off" in doctor._cache().said
        monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path))
        folder = compilation.folder()
        folder.mkdir()
        (folder / "jit_f-0-cache").write_bytes(bytes(3 * 2**20))
        assert doctor._cache() == Finding(True, "cache", f"3 MiB of at most 1 GiB, in {folder}")
        folder.chmod(0o777)
        assert doctor._cache().ok is None and "chmod go-w" in doctor._cache().said
        (tmp_path / "file").touch()
        monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path / "file"))
        assert doctor._cache().ok is None and "cannot be written" in doctor._cache().said
    finally:
        jax.config.update("jax_compilation_cache_dir", own)


def test_disk(tmp_path, monkeypatch):
    assert doctor._disk(tmp_path).ok
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert not doctor._disk(tmp_path).ok
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = doctor._disk(tmp_path)
    assert not found.ok and "5 MiB free" in found.said and "100 MiB or more" in found.said


def test_memory_is_that_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    whole = machine.memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory() == whole
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert machine.memory() == 2**30 < whole
    assert doctor._machine().endswith(", 1 GiB of memory")
