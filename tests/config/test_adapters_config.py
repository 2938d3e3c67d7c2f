"""The block ``adapters`` of a run: what is refused, in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from editlab.config.run import check_files, load_run, read_layers
from editlab.errors import ConfigError

ROOT = Path(__file__).parents[2]


def run_of(block):
    return load_run({"run": "x", "adapters": block})


@pytest.mark.parametrize("name", ["adapters", "adapters_smoke", "adapters_qwen"])
def test_the_runs_of_the_study_are_valid(name):
    run = load_run(read_layers([ROOT / "config.yaml", ROOT / "runs" / f"{name}.yaml"]))
    assert list(run.studies) == ["adapters"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"seeds": [0, 0]}, "seeds: .* holds a value twice"),
        ({"seeds": [9]}, "seeds"),
        ({"seeds": [1]}, "some of seeds"),
        ({"tasks": {"kind": "file", "path": "x.json"}}, "base: a trained base goes with tasks of kind letters"),
        ({"base": {"source": "trained", "width": 95}}, "multiple of heads"),
        ({"retrieval": {"index": "annoy"}}, "retrieval.index"),
        ({"merging": {"density": 0}}, "merging.density"),
        ({"coefficients": {"penalties": [0]}}, "coefficients.penalties"),
        ({"teacher": {}}, "did you mean 'teachers'"),
    ],
)
def test_what_is_not_allowed_is_one_line(block, message):
    with pytest.raises(ConfigError, match=message) as error:
        run_of(block)
    assert "\n" not in str(error.value)


def test_files_that_are_missing_are_named(tmp_path):
    base = {"source": "hub", "id": "some/model"}
    run = run_of({"tasks": {"kind": "file", "path": str(tmp_path / "no.json")}, "base": base})
    with pytest.raises(ConfigError, match=r"adapters.tasks.path: .* is not a file"):
        check_files(run)
    (tmp_path / "tasks.json").write_text(json.dumps([]))
    tasks = {"kind": "file", "path": str(tmp_path / "tasks.json")}
    check_files(run_of({"tasks": tasks, "base": base}))
    with pytest.raises(ConfigError, match="is not a directory"):
        check_files(run_of({"tasks": tasks, "base": {**base, "id": str(tmp_path / "no")}}))
