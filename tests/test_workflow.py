"""The workflow runs what a person runs: targets of the Makefile, on every Python asked for."""

import re
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

HERE = Path(__file__).parents[1]
JOBS = yaml.safe_load((HERE / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]


def test_it_calls_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (HERE / "Makefile").read_text(), re.M))
    called = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    assert {"make lint", "make test", "make oldest"} <= set(called)
    for command in called:
        assert command.partition(" ")[0] == "make" and command.partition(" ")[2] in targets


def test_the_oldest_python_is_the_one_that_the_package_asks_for():
    pythons = JOBS["test"]["strategy"]["matrix"]["python"]
    assert f">={pythons[0]}" == PROJECT["requires-python"]
    assert pythons == [f"3.{minor}" for minor in range(11, 11 + len(pythons))]


def test_constraints_are_within_the_ranges():
    """The newest JAX of each Python, and the oldest, are versions that the package allows."""
    from packaging.requirements import Requirement

    ranges = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    lines = (HERE / "constraints.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in JOBS["test"]["strategy"]["matrix"]["python"]:
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        here = [p for p in pinned if not p.marker or p.marker.evaluate(environment)]
        found = {p.name: str(p.specifier).removeprefix("==") for p in here if p.name in ranges}
        assert found.keys() == ranges.keys()
        assert all(ranges[name].contains(version) for name, version in found.items()), python
