"""Topics of the vision study on made-up cells: means over seeds, intervals, verdicts, figures and sheets."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from editlab.analysis.paper.tabular import tabular
from editlab.analysis.report.run import Run
from editlab.analysis.vision import REPORT, errors, location, methods, search
from editlab.analysis.vision.cells import of_seeds
from editlab.analysis.vision.collect import collect_search
from editlab.analysis.vision.description import _clamp
from editlab.files.artifacts import write_csv, write_provenance

SEEDS, DRAWS = (1, 2, 3), (0, 1)
RECIPES = {
    "alphaedit": {"method": "alphaedit", "control": None},
    "memit": {"method": "memit", "control": None},
    "random": {"method": "alphaedit", "control": "random"},
    "churn": {"method": "churn"},
}
FIXED = {"alphaedit": 16, "memit": 20, "random": 0, "churn": 0}
LEVELS = {
    "edit": 20,
    "projection": 100,
    "heldout": 50,
    "discovery_rest": 10,
    "discovery_right": 90,
    "ambiguous": 5,
    "test": 200,
}


def level_row(level: str, was_wrong: int, was_right: int, fixed: int, broken: int) -> dict[str, object]:
    n = was_wrong + was_right
    share = lambda count, of: count / of if of else np.nan  # noqa: E731
    return {
        "level": level, "n": n, "accuracy_before": share(was_right, n), "accuracy_after": share(was_right + fixed - broken, n),
        "accuracy_delta": share(fixed - broken, n), "fix_rate": share(fixed, was_wrong),
        "stability": share(was_right - broken, was_right), "regression_rate": share(broken, was_right),
        "unchanged": share(n - fixed - broken, n), "right_right": was_right - broken, "right_wrong": broken,
        "wrong_right": fixed, "wrong_wrong": was_wrong - fixed, "net_gain": fixed - broken,
        "mcnemar_p": 0.001 if fixed - broken > 9 else 1.0,
    }  # fmt: skip


def evaluation(method: str, seed: int, gains: dict[str, int]) -> pd.DataFrame:
    rows = []
    for draw in DRAWS:
        for level, n in LEVELS.items():
            wrong = n if level in ("edit", "discovery_rest") else 0 if level != "test" else 12
            fixed = {"edit": FIXED[method], "discovery_rest": 2 + seed, "test": gains[method]}.get(level, 0)
            about = {
                "dataset": "digits",
                "method": method,
                "seed": seed,
                "draw": draw,
                "requested": 20,
                "used": 20,
                "clipped": False,
            }
            if level == "edit" and method == "churn":
                wrong = n = fixed = 0
            rows.append(
                {**about, **level_row(level, wrong, n - wrong, fixed, 1 if level == "test" and seed == 2 else 0)}
            )
    return pd.DataFrame(rows)


def search_cells(seed: int) -> pd.DataFrame:
    rows = []
    for cell, (ridge, layers) in enumerate([(0.001, 1), (0.001, 2), (0.1, 1), (0.1, 2), (0.1, 3)]):
        run = {"discovery_score": 0.1 * cell + 0.01 * seed, "edit_total_wrong": 20, "edit_num_fixed": 4 * cell,
               "edit_fix_ratio": 0.2 * cell, "rest_total": 10, "rest_fixed": 1, "right_total": 90, "right_broken": 0,
               "key_share": 0.5, "residual": 0.4, "used_edits": 20, "used_samples": 100, "used_layers": "3",
               "clipped": ""}  # fmt: skip
        clipped = cell == 4
        rows.append({"cell": cell, "ridge": ridge, "num_edit_layers": layers, "same_as": 3 if clipped else cell,
                     **({} if clipped else run)})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose files hold made-up scores."""
    monkeypatch.chdir(tmp_path)
    gains = {"alphaedit": 1, "memit": 2, "random": 1, "churn": 2}
    folders = []
    for method in RECIPES:
        for seed in SEEDS:
            folder = f"results/x/vision/digits/method~{method}/edits~20/seed~{seed}"
            table = evaluation(method, seed, gains)
            about = {"dataset": "digits", "method": method, "seed": seed, "draw": 0}
            counts = {"before": [9, 1, 0, 0, 8, 2, 0, 0, 9], "after": [9, 0, 1, 0, 10, 0, 0, 0, 9]}
            pairs = pd.DataFrame(
                {**about, "label": np.repeat(range(3), 3), "predicted": np.tile(range(3), 3), **counts}
            )
            told = {
                "label": [0, 1, 2, 0],
                "before": [1, 1, 0, 0],
                "after": [0, 1, 2, 0],
                "edited": [True, False, True, False],
            }
            cases = pd.DataFrame({**about, "position": range(4), "index": range(4), "set": "discovery", **told})
            files = {"comparative_evaluation": table, "confusion_matrices": pairs, "changed_images": cases}
            for name, frame in files.items():
                write_csv(tmp_path / folder / f"{name}.csv", frame)
            write_provenance(folder, {"seconds": {}, "versions": {}}, [f"{folder}/{name}.csv" for name in files])
            folders.append((folder, {"dataset": "digits", "method": method, "edits": "20", "seed": str(seed)}))
    settings = {"methods": RECIPES, "ambiguous_gap": 0.05}
    return Run("x", settings, {"methods": folders}, others(tmp_path), root=tmp_path)


def others(root) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {
        name: [] for name in ("splits", "errors", "statistics", "locations", "images", "searches")
    }

    def put(kind: str, file: str, frame: pd.DataFrame) -> None:
        write_csv(root / file, frame)
        found[kind].append(file)

    data = "results/x/vision/digits/data"
    put("splits", f"{data}/data_split_info.csv", pd.DataFrame({"set": ["ft_train"], "images": [3]}))
    np.save(root / data / "discovery.npy", np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4, 1))
    found["images"].append(f"{data}/discovery.npy")
    for seed in SEEDS:
        here = f"results/x/vision/digits/seed~{seed}"
        put(
            "errors",
            f"{here}/errors.csv",
            pd.DataFrame({"right": [True] * 90 + [False] * 30, "gap": np.linspace(0, 1, 120)}),
        )
        sites = []
        for k in range(3):
            values = (
                ("trace", "mlp", -1, 0.3 - 0.1 * k),
                ("trial", "mlp", -1, float(k)),
                ("trace", "head", 0, 0.1 * k),
            )
            sites += [(*value, k) for value in values]
        frame = pd.DataFrame(sites, columns=["ranking", "part", "head", "value", "layer"])
        frame = frame.assign(positions="cls", ci_low=frame["value"] - 0.1, ci_high=frame["value"] + 0.1, n=30)
        put("statistics", f"{here}/layer_statistics.csv", frame.assign(ranked=frame["part"] == "mlp"))
        about = {
            "trace_layer": 0,
            "trial_layer": 2,
            "same_layer": False,
            "spearman": -1.0,
            "split_half": 0.9 + 0.01 * seed,
        }
        (root / here / "location.json").write_text(json.dumps(about))
        found["locations"].append(f"{here}/location.json")
    found["searches"].append(searched(root))
    return found


def searched(root) -> str:
    """The table of a search, collected from the folders of its jobs."""
    cells, scores = [], []
    for seed in SEEDS:
        for part in ("grid~0", "bayesian"):
            folder = root / f"results/x/vision/digits/search/seed~{seed}/{part}"
            table = search_cells(seed) if part == "grid~0" else search_cells(seed).head(2)
            ran = table.dropna(subset=["discovery_score"])["cell"]
            write_csv(folder / "cells.csv", table)
            write_csv(folder / "seconds.csv", pd.DataFrame({"cell": ran, "edit_seconds": 0.25, "score_seconds": 0.125}))
            test = pd.DataFrame({"cell": ran, "test_total": 200, "test_acc_before": 0.94, "test_acc_after": 0.94})
            test["test_acc_delta"] = 0.001 * ran - 0.002 * seed
            test = test.assign(
                test_correct_to_wrong=1, test_wrong_to_correct=1, proj_stability=1.0, proj_regression_rate=0.0
            )
            test["heldout_stability"] = 1.0
            scores.append(str(folder / "scores.csv"))
            cells.append(str(folder))
            write_csv(scores[-1], test)
    baseline = root / "results/x/vision/digits/method~memit/edits~20/seed~1/comparative_evaluation.csv"
    table = collect_search(cells, scores, [str(baseline)], "alphaedit")
    write_csv(root / "results/x/param_search_summary_digits.csv", table)
    return "results/x/param_search_summary_digits.csv"


def tables(run: Run) -> dict[str, pd.DataFrame]:
    return {name: table.collect(run) for name, (_, table) in REPORT.tables.items()}


def told(topic, found) -> dict[str, str]:
    return {f.key: f.sentence for f in topic.findings(found)}


def test_every_figure_sheet_and_finding_is_made(run):
    found = tables(run)
    for name, (topic, figure) in REPORT.figures.items():
        assert figure.drawn(found[figure.table]).axes, name
        assert figure.told(found[figure.table]).endswith("."), name
        assert topic.name in REPORT.names
    for name, (_, sheet) in REPORT.sheets.items():
        printed = sheet.make(found)
        assert "toprule" in tabular(printed.frame, printed.columns, "t.csv"), name
    keys = [f.key for t in REPORT.topics for f in t.findings({n: found[n] for n in t.reads if n in found})]
    assert len(keys) == len(set(keys)) > 10
    assert {k.split(".")[0] for k in keys} == set(REPORT.names)


def test_verdicts_follow_the_numbers(run):
    found = tables(run)
    sentences = told(methods, found) | told(location, found) | told(errors, found)
    assert (
        "No method gains test accuracy beyond its controls; the highest change is that of MEMIT"
        in sentences["methods.gain"]
    )
    assert "0 of 12 edited classifiers are better on test and 0 worse" in sentences["methods.gain"]
    assert "MEMIT fixes 1.00 (0.94 to 1.00) of the edited errors and AlphaEdit 0.80" in sentences["methods.memit"]
    assert sentences["methods.fix_memit"].startswith("MEMIT fixes 1.00 (0.94 to 1.00) of the errors")
    assert "never name the same block" in sentences["location.agreement"]
    assert "30 errors to edit; accuracy on test is 0.94" in sentences["errors.count"]


def test_a_gain_beyond_the_controls_is_told(run, tmp_path):
    for seed in SEEDS:
        folder = tmp_path / f"results/x/vision/digits/method~memit/edits~20/seed~{seed}"
        write_csv(folder / "comparative_evaluation.csv", evaluation("memit", seed, {"memit": 12}))
        files = [str(f) for f in folder.glob("*.csv")]
        write_provenance(str(folder), {"seconds": {}, "versions": {}}, files)
    sentence = told(methods, tables(run))["methods.gain"]
    assert sentence.startswith("MEMIT gains test accuracy beyond every control.")
    assert "6 of 12 edited classifiers are better on test" in sentence


def test_seeds_that_agree_have_an_interval_all_the_same():
    rows = pd.concat([evaluation("memit", seed, {"memit": 1}) for seed in SEEDS])
    table = of_seeds(rows, ["method", "level"], ["fix_rate", "accuracy_delta"]).set_index("level")
    assert table.loc["edit", "fix_rate"] == 1.0
    assert table.loc["edit", "fix_rate_low"] == pytest.approx(1 / (1 + 1.959964**2 / 60), abs=1e-6)  # Wilson, 60 of 60
    assert table.loc["edit", "fix_rate_high"] == 1.0
    assert table.loc["test", "accuracy_delta_low"] < table.loc["test", "accuracy_delta"] < 1


def test_draws_of_a_classifier_are_no_further_evidence():
    """Student's interval over three seeds, however many draws each has."""
    rows = pd.DataFrame([{"m": "x", "seed": s, "n": 1, "net_gain": 10.0 * s + d} for s in SEEDS for d in range(8)])
    found = of_seeds(rows, ["m"], ["net_gain"]).iloc[0]
    half = 4.302653 * 10 / 3**0.5  # quantile for two degrees of freedom; means 13.5, 23.5, 33.5
    assert (found["net_gain"], found["seeds"]) == (23.5, 3)
    assert found["net_gain_high"] - found["net_gain"] == pytest.approx(half, rel=1e-6)


def test_one_image_lost_by_every_classifier_is_no_measured_loss():
    """Three seeds that agree have no spread; the images say that it may be chance."""
    rows = pd.concat([evaluation("memit", seed, {"memit": 0}) for seed in SEEDS])
    test = rows["level"] == "test"
    rows.loc[test, ["right_wrong", "wrong_right", "accuracy_delta"]] = [1, 0, -1 / 200]
    found = of_seeds(rows, ["method", "level"], ["accuracy_delta"]).set_index("level").loc["test"]
    assert found["accuracy_delta"] == pytest.approx(-1 / 200)
    assert found["accuracy_delta_low"] < -1 / 200
    assert found["accuracy_delta_high"] > -1 / 200
    rows.loc[test, ["right_wrong", "accuracy_delta"]] = [0, 0.0]
    nothing = of_seeds(rows, ["method", "level"], ["accuracy_delta"]).set_index("level").loc["test"]
    assert nothing["accuracy_delta_low"] < 0 < nothing["accuracy_delta_high"]


def test_all_edited_classifiers_of_a_level_are_one_family_of_tests(run, tmp_path):
    """p = .004 in each cell of one method: sure among its six, not among the 24 that are looked at."""
    table = tables(run)["vision_comparison"]
    for seed in SEEDS:
        folder = tmp_path / f"results/x/vision/digits/method~memit/edits~20/seed~{seed}"
        rows = evaluation("memit", seed, {"memit": 12})
        rows["mcnemar_p"] = rows["mcnemar_p"].replace(0.001, 0.004)
        write_csv(folder / "comparative_evaluation.csv", rows)
        write_provenance(str(folder), {"seconds": {}, "versions": {}}, [str(f) for f in folder.glob("*.csv")])
    table = tables(run)["vision_comparison"].set_index(["method", "level"])
    assert table.loc[("memit", "test"), "mcnemar_better"] == 0
    assert table.loc[("memit", "test"), "mcnemar_p"] == pytest.approx(0.004 * 24)


@pytest.mark.parametrize(
    ("clamps", "told"),
    [
        ([0.75, 0.75], "at most 0.75 times the norm of h away"),
        ([0.2, 0.75], "at most 0.2 to 0.75 times the norm of h away"),
        ([None, 0.5], "at most 0.5 times the norm of h away, in some recipes without a limit"),
        ([None], "however far that is"),
        ([], "however far that is"),
    ],
)
def test_the_paper_tells_the_clamp_of_the_run(clamps, told):
    methods = {f"m{k}": {"method": "alphaedit", "clamp": clamp} for k, clamp in enumerate(clamps)}
    assert _clamp({"methods": {**methods, "churn": {"method": "churn"}}}) == told


def test_a_search_is_collected_and_told(run):
    table = tables(run)["vision_search"]
    grid = table[table["source"] == "grid"]
    repeated = grid[grid["cell"] == 4].iloc[0]
    assert repeated["discovery_score"] == grid[grid["cell"] == 3]["discovery_score"].iloc[0]
    assert search.axes_of(table) == ["ridge", "num_edit_layers"]
    sentences = told(search, tables(run))
    assert "(ridge 0.1, num edit layers 2) fixes 0.60" in sentences["search.best"]
    assert "changes test accuracy by −0.001 (" in sentences["search.best"]
    assert sentences["search.transfer"].startswith("A cell's discovery score predicts its change of test accuracy")
    assert "best of 4 distinct grid cells one of 0.32" in sentences["search.bayesian"]
    raw = pd.read_csv(run.root / run.inputs["searches"][0])
    assert raw["duration_seconds"].dropna().unique().tolist() == [0.375]
    assert raw.loc[raw["cell"].eq(4) & raw["source"].eq("grid"), "duration_seconds"].isna().all()
