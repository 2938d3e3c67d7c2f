"""The hook for lm-evaluation-harness: on a local task where the package is installed, else on a stand-in with its names."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_requests

import editlab
from editlab.errors import ConfigError, ModelError
from editlab.evaluation.harness import COLUMNS, run_tasks
from editlab.evaluation.scoring import score_targets

TASK = """
task: local_capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def stand_in(monkeypatch):
    """Modules with the names and signatures that are used of lm_eval 0.4, and what they were called with."""
    calls = {}

    class TaskManager:
        def __init__(self, include_path=None):
            self.all_tasks = ["arc_challenge", "local"]

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            calls["model"] = (pretrained, tokenizer, batch_size)

    def simple_evaluate(model, tasks, task_manager, **options):
        if tasks == ["local"]:
            raise RuntimeError("no such file\nor directory")
        calls["options"] = options
        error = 0.07 if options["bootstrap_iters"] > 0 else "N/A"  # as evaluator_utils.py of lm_eval 0.4.13
        results = {"arc_challenge": {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": error, "acc_norm,none": 0.5}}
        return {"results": results, "n-samples": {"arc_challenge": {"original": 1172, "effective": 40}}}

    for name, content in {
        "lm_eval": {"simple_evaluate": simple_evaluate},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": HFLM},
        "lm_eval.tasks": {"TaskManager": TaskManager},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_the_object_in_memory_is_scored_and_given_back(stand_in):
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    table = run_tasks(model, ["arc_challenge"], limit=40)
    assert list(table.columns) == COLUMNS
    assert table[["task", "metric", "value", "n"]].to_numpy().tolist() == [
        ["arc_challenge", "acc", 0.25, 40],
        ["arc_challenge", "acc_norm", 0.5, 40],
    ]
    assert table["stderr"].fillna(-1).tolist() == [0.07, -1]
    assert stand_in["model"][0] is model
    assert stand_in["options"]["limit"] == 40
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_memory_that_tasks_would_not_read_is_refused(stand_in):
    model, fact = tiny_model(), tiny_requests(1)
    for lookup in ("prompt", "everywhere"):
        edit = editlab.edit(model, fact, layers=[1], backend="memory", gate=0.9, lookup=lookup)
        with edit.applied(model):
            if lookup == "everywhere":
                assert len(run_tasks(model, ["arc_challenge"]))
            else:
                with pytest.raises(ConfigError, match="lookup 'prompt' would not be read"):
                    run_tasks(model, ["arc_challenge"])
    assert len(run_tasks(model, ["arc_challenge"]))


def test_mistakes_are_one_line(stand_in):
    with pytest.raises(ConfigError, match="tasks: none given"):
        run_tasks(tiny_model(), [])
    with pytest.raises(ConfigError, match="'ark' is not a task of lm_eval"):
        run_tasks(tiny_model(), ["ark"])
    with pytest.raises(ModelError, match=r"tasks local: cannot be run \(no such file\)"):
        run_tasks(tiny_model(), ["local"])


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'editlab\[harness\]'"):
        run_tasks(tiny_model(), ["arc_challenge"])


def test_a_local_task(tmp_path):
    pytest.importorskip("lm_eval", reason="lm_eval is an optional extra")
    rows = [{"question": f"The capital of land {i} is", "choices": ["Rome", "Oslo"], "answer": i % 2} for i in range(6)]
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.format(data=tmp_path / "rows.json"))
    model = tiny_model()
    found = run_tasks(model, ["local_capitals"], task_folder=tmp_path).set_index("metric").loc["acc"]
    scores = score_targets(model, [(row["question"], choice) for row in rows for choice in row["choices"]])
    chosen = (scores.log_prob * scores.tokens).reshape(6, 2).argmax(1)
    right = np.array([choice == row["answer"] for choice, row in zip(chosen, rows, strict=True)], dtype=float)
    assert found["n"] == 6
    assert found["value"] == pytest.approx(right.mean())
    assert found["stderr"] == pytest.approx(right.std(ddof=1) / 6**0.5)
