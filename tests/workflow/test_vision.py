"""The vision study as a workflow: which rule may read which set, the plan of every run, and a small run from end to end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEST = re.compile(r"vision/[^/]+/data/test\.")
DISCOVERY = re.compile(r"vision/[^/]+/data/discovery\.")
VAL = re.compile(r"vision/[^/]+/data/ft_val\.")
TRAIN = re.compile(r"vision/[^/]+/data/ft_train\.")
ALLOWED = {
    "test": {"score_vit", "score_search"},
    "discovery": {"find_errors", "locate_layers", "edit_vit", "edit_head", "retrain_vit", "score_vit",
                  "search_grid", "search_refined", "search_bayesian", "collect_table"},
    "ft_val": {"train_vit", "retrain_vit", "train_again"},
    "ft_train": {"train_vit", "retrain_vit", "train_again", "collect_keys", "edit_vit", "edit_head", "score_vit", "score_search"},
}  # fmt: skip
SETS = {"test": TEST, "discovery": DISCOVERY, "ft_val": VAL, "ft_train": TRAIN}
CHOOSES = {"train_vit", "find_errors", "locate_layers", "edit_vit", "edit_head", "retrain_vit", "train_again",
           "search_grid", "search_refined", "search_bayesian", "search_best", "collect_keys"}  # fmt: skip

SMALL = {
    "run": "small_vision",
    "edit": None,
    "vision": {
        "datasets": {"digits": {"kind": "digits", "model": "tiny", "min_errors": 5, "min_accuracy": 0.3}},
        "models": {"tiny": {"source": "scratch", "width": 32, "layers": 3, "heads": 2, "inner": 64,
                            "training": {"epochs": 8, "lr": 3e-3}}},
        "seeds": [1, 2],
        "draws": 2,
        "max_edits": 8,
        "heldout_samples": 50,
        "locating": {"max_samples": 4, "num_ablations": 4, "trial_draws": 1},
        "methods": {
            "alphaedit": {"method": "alphaedit", "num_edit_layers": 2, "projection_samples": 100},
            "alphaedit_trace": {"method": "alphaedit", "layers": "trace", "num_edit_layers": 1, "projection_samples": 100},
            "head_closed_form": {"method": "head_closed_form"},
            "finetune_errors": {"method": "finetune_errors", "lr": 1e-3, "epochs": 2},
            "retrain": {"method": "retrain"},
            "churn": {"method": "churn"},
            "random": {"method": "alphaedit", "control": "random", "num_edit_layers": 2, "projection_samples": 100},
        },
        "search": {"axes": {"layers": ["last", "trace"], "num_edit_layers": [2, 3, 4]}, "chunk": 4, "refine": {"clamp": [0.8]},
                   "trials": 2, "baselines": ["finetune_errors", "retrain"]},
    },
}  # fmt: skip


def rules_and_inputs(stdout: str) -> dict[str, set[str]]:
    """Inputs of every planned job, by rule, from what ``snakemake -n`` prints of rules without a message."""
    found: dict[str, set[str]] = {}
    rule = ""
    for line in stdout.splitlines():
        if match := re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", line):
            rule = match[1]
        elif match := re.match(r"\s+input: (.*)", line):
            found.setdefault(rule, set()).update(match[1].split(", "))
    return found


@pytest.fixture(scope="module")
def planned(separate):
    for file in separate.root.glob("rules/**/*.smk"):  # a job with a message is printed without its files
        file.write_text(re.sub(r"\n +message:\n +.*", "", file.read_text()))
    config = separate.root / "small_vision.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    done = separate.run("-n", configfile=config.name)
    return rules_and_inputs(done.stdout + done.stderr)


@pytest.mark.parametrize("name", SETS)
def test_no_rule_reads_a_set_that_the_protocol_forbids(planned, name):
    readers = {rule for rule, files in planned.items() if any(SETS[name].search(f) for f in files)}
    assert readers, f"nobody reads {name}: the plan was not understood"
    assert readers <= ALLOWED[name], readers - ALLOWED[name]


def test_a_search_over_rankings_reads_them(planned):
    for rule in ("search_grid", "search_refined", "search_bayesian"):
        assert any(f.endswith("layer_statistics.csv") for f in planned[rule]), rule


def test_nothing_that_chooses_reads_the_test_set_or_what_was_made_of_it(planned):
    made_of_test = re.compile(
        r"comparative_evaluation|/scores/|param_search_summary|changed_images|confusion|vision_comparison"
    )
    for rule in CHOOSES & set(planned):
        forbidden = [f for f in planned[rule] if TEST.search(f) or made_of_test.search(f)]
        assert not forbidden, f"{rule} reads {forbidden}"


@pytest.mark.parametrize("name", ["vision", "vision_vit_base"])
def test_runs_of_the_repository_can_be_planned(separate, name):
    config = yaml.safe_load((ROOT / "runs" / f"{name}.yaml").read_text())
    done = separate.run("-n", "--quiet", "rules", configfile=f"runs/{name}.yaml")
    jobs = separate.job_counts(done)
    block = config["vision"]
    expected = len(block["datasets"]) * len(block["seeds"])
    assert jobs["train_vit"] == expected
    assert jobs["score_vit"] >= expected * len(block["methods"])


def test_jobs_ask_for_a_gpu_where_their_classifiers_run_on_one(separate):
    """And those that load no classifier do not; on CPUs none does (the plan of the small run)."""
    for file in separate.root.glob("rules/**/*.smk"):
        file.write_text(re.sub(r"\n +message:\n +.*", "", file.read_text()))
    config = separate.root / "small_vision.yaml"
    for device in ("cpu", "cuda"):
        tiny = {**SMALL["vision"]["models"]["tiny"], "device": device}
        config.write_text(yaml.safe_dump({**SMALL, "vision": {**SMALL["vision"], "models": {"tiny": tiny}}}))
        done = separate.run("-n", configfile=config.name)
        asked: dict[str, set[bool]] = {}
        for line in (done.stdout + done.stderr).splitlines():
            if match := re.match(r"(?:local)?rule (\w+):", line):
                rule = match[1]
            elif re.match(r"\s+resources: ", line):
                asked.setdefault(rule, set()).add("gpu=1" in line)
        served = {rule for rule, found in asked.items() if found == {True}}
        loads = (CHOOSES - {"search_best"}) | {"score_vit", "score_search"}
        assert served == (loads if device == "cuda" else set())
        assert all(len(found) == 1 for found in asked.values())


def test_liver_files_are_converted_once_for_all_tasks(separate):
    (separate.root / "data" / "liver").mkdir(parents=True)
    for name in ("imgs", "labs"):
        (separate.root / "data" / "liver" / f"{name}.npy").touch()
    jobs = separate.job_counts(separate.run("-n", "--quiet", "rules", configfile="runs/vision_liver.yaml"))
    assert jobs["convert_liver"] == 1
    assert jobs["split_images"] == 3
    assert jobs["train_vit"] == 9


@pytest.mark.slow
def test_a_small_run_from_end_to_end(separate):
    config = separate.root / "small_vision.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    separate.run("--quiet", "all", configfile=config.name)
    out = separate.root / "results" / "small_vision"
    table = pd.read_csv(out / "vision_comparison.csv")
    assert set(table["method"]) == set(SMALL["vision"]["methods"])
    assert table[table["level"] == "edit"].set_index("method").loc["head_closed_form", "fix_rate"] > 0.7
    summary = pd.read_csv(out / "param_search_summary_digits.csv")
    grid = summary[summary["source"] == "grid"]
    assert len(grid) == 6
    assert (grid["same_as"] != grid["cell"]).sum() == 2
    assert {"baseline_retrain", "baseline_finetune"} <= set(summary["method"])
    assert len(pd.read_csv(out / "vision/digits/data/data_split_info.csv")) == 4
    for figure in (
        "vision_fix_regression",
        "vision_layer_importance",
        "vision_confusion_matrices",
        "vision_edited_images",
    ):
        assert (out / "figures" / f"{figure}.png").exists()
    before = (out / "vision_comparison.csv").read_bytes()
    assert separate.jobs(configfile=config.name) == {}
    assert (out / "vision_comparison.csv").read_bytes() == before


def test_the_library_of_the_study_solves_nothing_itself():
    """No decomposition, inverse or solve in the study's package: they are the algebra's."""
    forbidden = re.compile(r"linalg\.(solve|inv|pinv|eigh|svd|cholesky|lstsq|qr)|cholesky_solve|lstsq")
    for file in (ROOT / "editlab" / "vision").glob("*.py"):
        assert not forbidden.search(file.read_text()), file.name
        assert "editlab.editing" not in file.read_text(), file.name


@pytest.mark.slow
def test_one_edit_of_a_vit_b_at_224_pixels_needs_less_than_4_gb(tmp_path):
    """The true architecture with random weights, in a process of its own."""
    program = (Path(__file__).with_name("vit_base_edit.py")).read_text()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 4096
