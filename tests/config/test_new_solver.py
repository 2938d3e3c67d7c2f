"""A solver with a hyper-parameter of its own is three places: its function, its options class with a line, its recipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FUNCTION = '''

@update.register
def damped(options: Damped, problem: Problem) -> Result:
    """MEMIT's update, times a factor."""
    change, found = memit(options, problem)
    return change.scaled(options.damping), found | {"damping": options.damping}
'''
OPTIONS = '''class Damped(Memit):
    """MEMIT's update, times a factor."""

    name = "damped"
    damping: PositiveShare = Field(0.5, description="factor of the update")


SOLVERS: dict[str, type[Solver]] = {
    Damped.name: Damped,
'''
CHECK = """
import pathlib, sys, yaml
sys.path.insert(0, "tests")
import torch
from tiny import tiny_model, tiny_requests
import editlab
from editlab.config.run import load_run
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture

values = yaml.safe_load(pathlib.Path("config.yaml").read_text())
run = load_run(values)
assert run.edit.model_dump()["methods"]["damped"]["damping"] == 0.25
assert any(cell["method"] == "damped" for cell in run.edit.cells("quick_validation"))
for where, bad in (("methods", {"solver": "damped", "damping": 2}), ("methods", {"solver": "memit", "damping": 0.5})):
    try:
        load_run({**values, "edit": {**values["edit"], where: {**values["edit"][where], "damped": bad}}})
    except ConfigError as error:
        assert "methods.damped.damping" in str(error), error
    else:
        raise AssertionError(bad)

model, requests = tiny_model("gpt2"), tiny_requests(3)
moment = torch.eye(Architecture(model).weight_shape(1)[1], dtype=torch.float64)
common = {"layers": [1], "statistics": {1: moment}, "steps": 3, "clamp": 2.0, "second_moment_weight": 5.0}
whole = editlab.edit(model, requests, method="memit", **common)
half = editlab.edit(model, requests, method="damped", **common)
assert torch.allclose(half.delta(1), 0.5 * whole.delta(1), rtol=1e-9)
assert half.info["recipe"]["damping"] == 0.5
"""


@pytest.mark.slow
def test_a_solver_with_a_new_hyper_parameter_touches_three_places(tmp_path):
    for name in ("editlab", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    algebra, registry, run = (
        tmp_path / "editlab" / "algebra" / "solvers.py",
        tmp_path / "editlab" / "config" / "solvers.py",
        tmp_path / "config.yaml",
    )
    algebra.write_text(algebra.read_text().replace("    AlphaEdit,\n", "    AlphaEdit,\n    Damped,\n", 1) + FUNCTION)
    line = "SOLVERS: dict[str, type[Solver]] = {\n"
    assert registry.read_text().count(line) == 1
    registry.write_text(registry.read_text().replace(line, OPTIONS))
    text = (ROOT / "config.yaml").read_text()
    recipe = "  methods:\n    damped: {solver: damped, layers: [0, 1], clamp: 0.75, damping: 0.25}\n"
    sweep = "    axes:\n      damped: {damping: [0.5, 1.0]}\n"
    cells = "quick_validation: {methods: [memit]"
    for old, new in (("  methods:\n", recipe), ("    axes:\n", sweep), (cells, "quick_validation: {methods: [damped]")):
        assert text.count(old) >= 1
        text = text.replace(old, new, 1)
    run.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
