"""The profiles name rules that exist, options that Snakemake knows, and ask for progress bars only where they make sense."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yte

ROOT = Path(__file__).resolve().parents[1]
RULES = "".join(path.read_text() for path in sorted(ROOT.rglob("rules/**/*.smk")))
NAMES = set(re.findall(r"^(?:rule|checkpoint) (\w+):", RULES, re.MULTILINE)) | set(
    re.findall(r" as (\w+) with:", RULES)
)
GROUPS = set(re.findall(r'small_jobs\("\w+", "(\w+)"', RULES))


def profile(name: str) -> dict:
    with (ROOT / "profiles" / name / "config.yaml").open() as file:
        return yte.process_yaml(file, require_use_yte=True)


@pytest.mark.parametrize(("terminal", "installed"), [(True, True), (True, False), (False, True)])
def test_progress_is_rich_on_a_terminal_where_the_plugin_is_installed(monkeypatch, terminal, installed):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert profile("default").get("logger") == (["rich"] if terminal and installed else None)


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_groups_and_arrays_name_rules_that_exist(name):
    found = profile(name)
    assert set(found.get("groups", {})) <= NAMES
    arrays = {rule.strip() for rule in found.get("slurm-array-jobs", "").split(",")} - {""}
    assert arrays <= NAMES


def test_every_group_has_a_size():
    named = GROUPS | set(profile("slurm")["groups"].values())
    assert {"prepare", "cells", "tables"} <= named
    assert set(profile("slurm")["group-components"]) == named - {"prepare"}  # that is one chain as it is
    inside = re.search(r"dict.fromkeys\(\s*\((.*?)\)", RULES, re.DOTALL)
    assert inside
    assert set(re.findall(r"\w+", inside[1])) == GROUPS


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_cluster_retries_goes_on_and_asks_for_memory_and_time(name):
    found = profile(name)
    assert found["retries"] >= 1
    assert found["keep-going"] is True
    assert {"mem_mb", "runtime"} <= set(found["default-resources"])


def test_every_rule_that_loads_the_model_asks_by_its_size():
    """A job on the model asks for memory, time and GPUs that grow with it; no rule asks half and half."""
    for body in re.split(r"^(?:rule|checkpoint) ", RULES, flags=re.MULTILINE)[1:]:
        asked = set(re.findall(r'\b(mem_mb|runtime|gpu)=model_resource\("', body))
        assert asked in (set(), {"mem_mb", "runtime", "gpu"}), body.split(":")[0]
        if "loading(w.model)" in body and "params" in body:
            assert asked, body.split(":")[0]
