"""Topics of the adapters study on made-up scores: means, paired differences, verdicts, figures and sheets."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from editlab.analysis.adapters import REPORT, deltas, distance, effort, generators, merging, methods, pages, retrieval
from editlab.analysis.adapters.scores import COMBINATIONS, difference, means
from editlab.analysis.paper.tabular import tabular
from editlab.analysis.report.making import findings_of
from editlab.analysis.report.run import Run
from editlab.files.artifacts import write_csv, write_provenance

TASKS = [f"p{i}.l{i % 3}" for i in range(8)]
LEVELS = {
    ("reference", "base"): 0.0,
    ("reference", "base, described"): 0.8,
    ("reference", "one LoRA for all tasks"): 0.02,
    ("reference", "one LoRA for all tasks, described"): 0.82,
    ("reference", "teacher"): 0.99,
    ("reference", "mean of all adapters"): 0.01,
    ("reference", "nearest by text"): 0.05,
    ("reference", "best single (oracle)"): 0.1,
    ("retrieval", "B2b delta, k = 1, uniform"): 0.2,
    ("retrieval", "B2b text, k = 1, uniform"): 0.1,
    ("generator", "coefficients, weights"): 0.8,
    ("generator", "coefficients, deltas"): 0.8,
    ("generator", "hyperconvolution, weights"): 0.3,
    ("generator", "hyperconvolution, deltas"): 0.1,
    ("shuffled", "coefficients, weights"): 0.0,
}


def scores(split: str = COMBINATIONS) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for seed in (0, 1):
        noise = dict(zip(TASKS, rng.uniform(-0.05, 0.05, len(TASKS)), strict=True))
        for (group, method), level in LEVELS.items():
            decoder, _, supervision = method.partition(", ") if group in ("generator", "shuffled") else ("", "", "")
            for task in TASKS:
                exact = float(np.clip(level + noise[task], 0, 1))
                rows.append({"seed": seed, "split": split, "group": group, "method": method, "decoder": decoder or None,
                             "supervision": supervision or None, "task": task, "exact": exact, "letters": exact,
                             "delta_cosine": exact, "delta_error": 1 - level, "delta_spread": 1.0,
                             "delta_size": 2.0})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def run(tmp_path):
    """A run whose files hold made-up scores."""
    rng = np.random.default_rng(2)
    table = scores()
    inputs: dict[str, list[str]] = {"adapter_scores": [], "adapter_pools": [], "checks": [], "gates": []}

    def put(name: str, file: str, frame: pd.DataFrame) -> None:
        write_csv(tmp_path / file, frame)
        inputs.setdefault(name, []).append(file)

    for seed, own in table.groupby("seed"):
        here = f"results/x/adapters/seed~{seed}"
        put("adapter_scores", f"{here}/references.csv", own[own["group"] == "reference"])
        put("adapter_scores", f"{here}/retrieval_scores.csv", own[own["group"] == "retrieval"])
        for method in (
            "coefficients, weights",
            "coefficients, deltas",
            "hyperconvolution, weights",
            "hyperconvolution, deltas",
        ):
            file = f"{here}/generators/{method.replace(', ', '-')}/scores.csv"
            put("adapter_scores", file, own[(own["method"] == method)])
            checks = {"seed": int(seed), "split": COMBINATIONS, "likeness": 0.5,
                      "decoder": method.split(", ")[0], "supervision": method.split(", ")[1],
                      **{name: method.startswith("hyper") and name == "collapse" for name in generators.CHECKS}}  # fmt: skip
            (tmp_path / f"{here}/checks-{method}.json").write_text(json.dumps(checks))
            inputs["checks"].append(f"{here}/checks-{method}.json")
        queries = [("training", q) for q in ("delta", "text", distance.ORACLE)] + [(retrieval.OPEN, "delta")]
        put("retrieved", f"{here}/retrieved.csv", pd.DataFrame([
            {"seed": seed, "split": COMBINATIONS, "index": index, "query": query, "k": 1, "task": task,
             "cosine": rng.uniform(0.2, 0.9), "reciprocal_rank": 0.5, "hit_1": float(i % 2), "hit_3": 1.0, "hit_part_1": 1.0,
             "hit_part_2": 0.0} for index, query in queries for i, task in enumerate(TASKS)]))  # fmt: skip
        put("merges", f"{here}/merge.csv", pd.DataFrame([
            {"seed": seed, "pool": pool, "rule": rule, "space": space, "rank": rank, "task": task, "exact": 0.1,
             "letters": letters + 0.01 * i, "cosine_to_sum": 0.9, "norm_to_sum": 1.0}
            for pool in ("shared A_0", "own A_0")
            for rule, space, rank, letters in (("linear", "product", 0, 0.5), ("linear", "factor", 4, 0.2),
                                               ("ties", "product", 4, 0.5), ("dare_linear", "product", 4, 0.4))
            for i, task in enumerate(TASKS)]))  # fmt: skip
        put("deltas", f"{here}/deltas.csv", pd.DataFrame([
            {"seed": seed, "adapter": t, "task": t, "split": "test" if i % 3 == 0 else "train", "part_1": t.split(".")[0],
             "part_2": t.split(".")[1], "norm": 1.0, "component_1": rng.normal(), "component_2": rng.normal()}
            for i, t in enumerate(TASKS)]))  # fmt: skip
        put("pooling", f"{here}/pooling.csv", pd.DataFrame([
            {"seed": seed, "position": p, "pool": "mean", "raw_reliability": 0.95, "reliability": r, "seed_cosine": 0.7,
             "seed_nearest": 0.9, "text_r2": 0.4} for p, r in (("answer", 0.9), ("neutral", 0.3))]))  # fmt: skip
        put("choices", f"{here}/choices.csv", pd.DataFrame([
            {"seed": seed, "decoder": "coefficients", "supervision": "weights", "step": 0, "penalty": 0.1,
             "letters": 0.5}]))  # fmt: skip
        gates = {"seed": int(seed), "measured": {"prompted": 0.97, "prompted_held_out": 0.8, "bare": 0.001, "teacher": 0.99,
                 "teachers": 1.0, "reliability": 0.85 - 0.1 * int(seed)},
                 "holds": {"prompted": True, "bare": True, "teachers": True, "reliability": seed == 0}}  # fmt: skip
        (tmp_path / f"{here}/gates.json").write_text(json.dumps(gates))
        inputs["gates"].append(f"{here}/gates.json")
    settings = {"scores": {"margin": 0.05}}
    return Run("x", settings, {}, inputs, root=tmp_path)


def tables(run: Run) -> dict[str, pd.DataFrame]:
    skipped = ("adapter_effort",)  # needs records of jobs
    return {name: table.collect(run) for name, (_, table) in REPORT.tables.items() if name not in skipped}


def test_every_figure_sheet_and_finding_is_made(run):
    found = tables(run)
    for name, (topic, figure) in REPORT.figures.items():
        if figure.table in found:
            drawn = figure.drawn(found[figure.table])
            assert drawn.axes, name
            assert figure.told(found[figure.table]).endswith("."), name
            assert topic.name in REPORT.names
    for name, (_, sheet) in REPORT.sheets.items():
        printed = sheet.make(found)
        assert "toprule" in tabular(printed.frame, printed.columns, "t.csv"), name
    keys = [f.key for t in REPORT.topics for f in findings_of(t, found)]
    assert len(keys) == len(set(keys)) > 15
    assert {k.split(".")[0] for k in keys} == set(REPORT.names) - {"effort"}


def test_the_null_of_equal_supervision_is_tested_paired(run):
    margins = tables(run)["adapter_margins"].set_index(["decoder", "supervision", "metric"])
    same = margins.loc[("coefficients", "deltas", "exact")]
    assert same["value"] == pytest.approx(0)
    assert bool(same["equal"])
    other = margins.loc[("hyperconvolution", "deltas", "exact")]
    assert not bool(other["equal"])
    assert other["ci_high"] < 0
    told = {f.key: f for f in generators.findings(tables(run))}
    assert (
        "equals tuned supervision by weights within the margin of 0.05"
        in told["generators.supervision_coefficients"].sentence
    )
    assert "is worse than" in told["generators.supervision_hyperconvolution"].sentence
    # Two that fail alike are not equal: nothing was compared.
    found = tables(run)
    found["adapter_margins"] = found["adapter_margins"].assign(
        value=0.0, ci_low=0.0, ci_high=0.0, equal=True, best=0.01
    )
    failed = {f.key: f for f in generators.findings(found)}["generators.supervision_coefficients"]
    assert "fail alike (at most 0.01)" in failed.sentence
    assert not failed.supported


def test_verdicts_follow_the_numbers(run):
    found = tables(run)
    told = {f.key: f.sentence for f in [*generators.findings(found), *merging.findings(found), *deltas.findings(found)]}
    assert "exceeds the best single training adapter" in told["generators.best_single"]
    assert (
        "is not separated from the base" in told["generators.described"]
        or "falls short" in told["generators.described"]
    )
    assert "4 of 8 trained generators give degenerate answers" in told["generators.degenerate"]
    assert "loses" in told["merging.factors_own"]
    assert "no measurable difference" in told["merging.ties_own"]
    assert told["deltas.gates"] == "These gates fail: the reliability of deltas (seed 1)."
    assert "0.95 can hide a centred one of 0.30" in told["deltas.common_part"]


def test_pools_are_compared_on_the_seeds_that_both_have(run):
    table = tables(run)["merge"]
    assert set(merging._shown(table)["pool"]) == {"shared A_0", "own A_0"}
    one = table[(table["pool"] == "shared A_0") | (table["seed"] == 0)]
    one = one.assign(letters=one["letters"] + 0.2 * one["seed"])
    shown = merging._shown(one).set_index(["pool", "name"])
    mean = "mean of products"
    assert shown.loc[("shared A_0, same seed 0", mean), "letters"] == shown.loc[("own A_0", mean), "letters"]
    assert shown.loc[("shared A_0", mean), "letters"] == pytest.approx(shown.loc[("own A_0", mean), "letters"] + 0.1)
    assert "compared on the same seeds" in merging.merging_sheet.make({"merge": one}).legend


def test_training_that_was_still_rising_is_told(run):
    rows = [{"seed": seed, "decoder": "coefficients", "supervision": "deltas", "step": step, "penalty": 0.1, "letters": letters}
            for seed, path in ((0, (0.1, 0.5, 0.9)), (1, (0.1, 0.9, 0.5)))
            for step, letters in zip((0, 20, 40), path, strict=True)]  # fmt: skip
    found = tables(run) | {"adapter_choices": pd.DataFrame(rows)}
    told = {f.key: f.sentence for f in generators.findings(found)}
    said = "still rising after 40 steps of training on deltas in 1 of 2 seeds."
    assert told["generators.supervision_coefficients"].endswith(said)
    assert "rising" not in told["generators.supervision_hyperconvolution"]


def test_the_gain_is_that_of_the_seeds_a_method_has():
    table = scores()
    table["exact"] -= 0.3 * table["seed"] * (table["method"] == "base, described")
    base = table["method"] == "base"
    table.loc[base, "exact"] = 0.5 * table.loc[base, "seed"]
    one = table[(table["seed"] == 0) | (table["group"] != "generator")]
    row = {"split": COMBINATIONS, "group": "generator", "method": "coefficients, weights", "exact": 0.495}
    teacher = one[(one["method"] == "teacher") & (one["seed"] == 0)]["exact"].mean()
    assert methods._share(one, row) == pytest.approx(0.495 / teacher)


def test_a_difference_is_paired_and_counts_seeds():
    rng = np.random.default_rng(0)
    base = pd.DataFrame(
        {"seed": np.repeat([0, 1, 2], 10), "task": list("abcdefghij") * 3, "exact": rng.uniform(size=30) * 0.5}
    )
    found = difference(base.assign(exact=base["exact"] + 0.1), base)
    assert found["value"] == pytest.approx(0.1)
    assert found["ci_low"] == pytest.approx(0.1)
    assert found["n"] == 30
    assert found["seeds"] == 3
    # Seeds that differ more than their tasks do: Student's of three means, 4.3 standard errors.
    apart = base.assign(exact=0.1 * base["seed"])
    assert means(apart.assign(m=0), ["m"], ["exact"])["exact_high"].iloc[0] == pytest.approx(
        0.1 + 4.303 * 0.1 / 3**0.5, abs=1e-3
    )
    shifted = base.assign(exact=base["exact"] + 0.1 * base["seed"])
    assert difference(shifted, base)["ci_low"] < 0.1 < difference(shifted, base)["ci_high"]
    assert difference(base.assign(task="other"), base)["n"] == 0


def test_r2_is_against_the_spread():
    frame = means(scores(), ["method"]).set_index("method")
    assert frame.loc["teacher", "delta_r2"] == pytest.approx(0.99)
    assert frame.loc["base", "delta_r2"] == pytest.approx(0.0)
    assert frame.loc["base", "delta_ratio"] == pytest.approx(0.5)


def test_the_table_of_methods_has_gain_wins_and_likeness(run):
    frame = methods.methods_table(run).set_index(["group", "method"])
    linear = frame.loc[("generator", "coefficients, weights")]
    assert linear["gain"] == pytest.approx(0.8 / 0.99, abs=0.05)
    assert linear["won"] == 1.0
    assert linear["likeness"] == 0.5
    assert linear["exact_low"] < linear["exact"] < linear["exact_high"]
    assert frame.loc[("reference", "base"), "won"] == 0.0
    names = [methods.shown(row) for row in frame.reset_index().to_dict("records")]
    assert len(set(names)) == len(names)
    assert "nearest by delta (B2b)" in names
    assert "linear, weights (ridge), shuffled" in names
    data = pages.methods_data({"adapter_methods": frame.reset_index()})
    assert len(data["rows"]) == len(frame)


def test_effort_comes_from_the_records_of_jobs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pools = []
    for seed in (0, 1):
        pool = tmp_path / f"results/x/adapters/seed~{seed}/shared.safetensors"
        pool.write_bytes(b"x")
        pools.append(str(pool.relative_to(tmp_path)))
    made = [f for f in run.inputs["adapter_scores"] if f.endswith("/scores.csv")]
    for file in [*made, *pools]:
        write_provenance(file, {"seconds": {"job": {"wall": 9.0, "cpu": 7.0}}}, [file])
    run = Run("x", run.settings, {}, {**run.inputs, "adapter_pools": pools})
    table = effort.effort_table(run)
    assert set(table["method"]) >= {"teacher", "coefficients, weights"}
    assert set(table["seconds"]) == {7.0}
    assert "takes 7 CPU seconds" in effort.findings({"adapter_effort": table})[0].sentence
