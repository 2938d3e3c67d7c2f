"""One environment everywhere: the lock, the conda environments, the container and what is installed here agree."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs.make_envs import environment, pins

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTAINER = (ROOT / "Containerfile").read_text()
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def locked(name: str = "requirements.lock") -> dict[str, str]:
    pairs = (pin.split("==") for pin in pins(ROOT / name))
    return {canonicalize_name(package): version for package, version in pairs}


ADDED = ["requirements-kubernetes.lock", "requirements-hub.lock"]


@pytest.mark.parametrize("name", ["requirements.lock", *ADDED])
def test_a_lock_pins_every_package_once_for_every_platform(name):
    lines = pins(ROOT / name)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)  # no +cpu, no path
    assert len(locked(name)) == len(lines)


BY_REQUEST = {"harness", "tracking", "retrieval"}  # large, and nothing that the workflow runs by itself needs them


def test_the_lock_lies_in_the_ranges_of_the_project():
    extras = {k: v for k, v in PROJECT["optional-dependencies"].items() if k not in BY_REQUEST}
    both = locked() | locked("requirements-kubernetes.lock") | locked("requirements-hub.lock")
    for text in [*PROJECT["dependencies"], *(r for requirements in extras.values() for r in requirements)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(both[canonicalize_name(requirement.name)]), text


def test_what_is_installed_here_is_the_lock():
    installed = {canonicalize_name(d.name): d.version.partition("+")[0] for d in importlib.metadata.distributions()}
    different = {package: installed.get(package) for package, v in locked().items() if installed.get(package) != v}
    assert not different, f"run `make setup`: {different}"


@pytest.mark.xdist_group("alone")
def test_the_runner_keeps_groups_of_tests_together(request):
    """What shares a fixture that takes minutes, or a cluster, must go to one process: some releases forget to."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("the runner does not deal out tests by group here")
    assert request.node.nodeid.endswith("@alone")


@pytest.mark.parametrize("name", ADDED)
def test_additions_leave_the_lock_alone(name):
    base, more = locked(), locked(name)
    assert {package for package in base.keys() & more.keys() if base[package] != more[package]} <= {"python-dateutil"}


def test_the_conda_environment_is_written_from_the_lock():
    assert (ROOT / "envs" / "editlab.yaml").read_text() == environment(), "run `python envs/make_envs.py`"


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda p: p.stem)
def test_environments_agree_with_the_lock(path):
    entries = yaml.safe_load(path.read_text())["dependencies"]
    conda = [entry for entry in entries if isinstance(entry, str)]
    pip = [pin for group in entries if isinstance(group, dict) for pin in group["pip"]]
    for entry in conda + pip:
        package, _, version = re.sub(r"\s", "", entry).partition("=")
        if (name := canonicalize_name(package)) in locked() and version:
            assert version.lstrip("=") == locked()[name], entry


def test_rules_name_environments_that_are_there():
    named = set(re.findall(r'conda:\s*"\.\./(envs/[^"]+)"', "".join(p.read_text() for p in ROOT.glob("rules/*.smk"))))
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_container_is_built_from_the_locks():
    for name in ("requirements.lock", "requirements-kubernetes.lock"):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", CONTAINER, re.MULTILINE)
        assert f"pip install -r {name}" in CONTAINER
    assert "pip check" in CONTAINER
    for sources in re.findall(r"^COPY (.*) \S+$", CONTAINER, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_container_and_conda_have_the_same_python():
    [base] = re.findall(r"^FROM (\S+)", CONTAINER, re.MULTILINE)
    python = re.search(r"python:(\d+\.\d+)-slim", base)
    assert python
    assert f"python ={python[1]}" in (ROOT / "envs" / "editlab.yaml").read_text()
    assert PROJECT["requires-python"] == f">={python[1]}"
