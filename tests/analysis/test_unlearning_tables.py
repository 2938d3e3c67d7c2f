"""The tables of the unlearning study from files made up so that the right answer is known."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from editlab.analysis.unlearning import tables
from editlab.analysis.unlearning.epochs import along
from editlab.analysis.unlearning.recovery import findings
from editlab.config.run import load_run, read_layers


@pytest.fixture
def settings():
    return load_run(read_layers(["config.yaml", "runs/unlearning_smoke.yaml"])).unlearning.model_dump(mode="json")


@pytest.fixture(autouse=True)
def unrecorded(monkeypatch):
    """Files without records: what is read is what the test wrote."""
    monkeypatch.setattr(tables, "read_verified", lambda path: path)


def attack(folder, target, values, kind="full", first=0):
    """An attack file: V at epoch ``first`` and after, both halves alike."""
    rows = [
        {
            "set": "V",
            "half": half,
            "metric": "cloze",
            "value": value,
            "n": 4,
            "lr": 0.002,
            "epoch": epoch,
            "v_split": "split_0",
        }
        for epoch, value in enumerate(values, first)
        for half in ("first", "second")
    ]
    file = folder / "attacks" / f"attack~{kind}" / target / "seed~1.csv"
    file.parent.mkdir(parents=True)
    columns = ["v_split", "set", "half", "metric", "value", "n", "lr", "epoch"]
    pd.DataFrame(rows, columns=columns).to_csv(file, index=False)
    return str(file)


def test_the_summary_knows_its_conditions(settings, tmp_path):
    files = [
        attack(tmp_path, "control~known", [1.0, 1.0]),
        attack(tmp_path, "control~parent", [0.2, 0.25]),
        attack(tmp_path, "point~selected/method~gd/rank~0", [0.25, 0.75]),
        attack(tmp_path, "point~selected/method~gd_lora/rank~4", []),
    ]
    rtt = tables.rtt_table(files, settings)
    assert set(rtt["condition"]) == {"B", "C", "N"}
    assert set(rtt["v_split"]) == {"split_0"}
    base = {
        "lr": 0,
        "retain": 0,
        "epoch": 0,
        "forget": 1.0,
        "keep": 1.0,
        "report": 1.0,
        "perplexity": 5.0,
        "kl": 0.0,
        "n": 16,
    }
    point = {
        **base,
        "lr": 0.002,
        "retain": 2.0,
        "epoch": 3,
        "forget": 0.25,
        "report": 0.95,
        "perplexity": 5.5,
        "kl": 0.01,
    }
    chosen = []
    for name, selected in (("method~gd/rank~0", point), ("method~gd_lora/rank~4", None)):
        file = tmp_path / "chosen" / name / "seed~1.json"
        file.parent.mkdir(parents=True)
        file.write_text(
            json.dumps({"metric": "cloze", "base": base, "selected": selected, "matched": None, "budget": None})
        )
        chosen.append(str(file))
    summary = tables.summary_table(rtt, chosen, settings).set_index("method")
    row = summary.loc["gd"]
    assert (row["A"], row["B"], row["C"], row["N"]) == (0.25, 0.75, 1.0, 0.25)
    assert row["recovery"] == pytest.approx(0.75)
    assert row["recovery_corrected"] == pytest.approx(0.5 / 0.75)
    assert row["retain_drop"] == pytest.approx(0.05)
    assert row["perplexity_ratio"] == pytest.approx(1.1)
    assert summary.loc["gd_lora", "found"] == 0
    assert math.isnan(summary.loc["gd_lora", "B"])
    assert tables.by_category(rtt, "cloze")["best"].tolist() == [0.75]
    rtt.to_csv(tmp_path / "rtt.csv", index=False)
    lines = along(pd.read_csv(tmp_path / "rtt.csv"))  # as a figure reads it: blank cells are unknown
    ends = lines[lines["epoch"] == 1].set_index("series")["value"].to_dict()
    assert ends == {"not unlearned (C)": 1.0, "never knew (N)": 0.25, "GD": 0.75}


def test_a_linear_probe_has_its_row_and_its_sentence(settings, tmp_path):
    """It knows no epoch 0: A is the forget accuracy of the point."""
    settings = {**settings, "other_attacks": ["gd"], "methods": {"gd": settings["methods"]["gd"]}}
    base = dict.fromkeys(("lr", "retain", "epoch", "kl"), 0) | dict.fromkeys(("forget", "report"), 1.0)
    base |= {"perplexity": 5.0, "n": 80, "keep": 1.0}
    point = {**base, "lr": 0.002, "epoch": 3, "forget": 0.25, "report": 0.95}
    chosen = tmp_path / "chosen" / "method~gd" / "rank~0" / "seed~1.json"
    chosen.parent.mkdir(parents=True)
    chosen.write_text(json.dumps({"metric": "cloze", "base": base, "selected": point, "matched": None, "budget": None}))
    files = [
        attack(tmp_path, target, values[start:], kind, start)
        for target, values in {
            "control~known": [1.0, 1.0],
            "control~parent": [0.2, 0.25],
            "point~selected/method~gd/rank~0": [0.25, 0.75],
        }.items()
        for kind, start in (("full", 0), ("lora", 0), ("prompt", 1), ("probe", 1))
    ]
    summary = tables.summary_table(tables.rtt_table(files, settings), [str(chosen)], settings)
    assert list(summary["attack"]) == ["full", "lora", "prompt", "probe"]
    assert summary[["A", "B", "C", "N"]].drop_duplicates().to_numpy().tolist() == [[0.25, 0.75, 1.0, 0.25]]
    said = {f.key: f.sentence for f in findings({"summary": summary})}
    assert said["recovery.probe_gd_0"].startswith("A linear probe of the hidden states reads ")
    assert "of the held-out facts after GD, which itself answers 0.25 of them, against " in said["recovery.probe_gd_0"]
    assert {"recovery.lora_gd_0", "recovery.prompt_gd_0"} <= set(said)
    assert said["recovery.hidden"].startswith("After none of 1 method that forgot enough")  # of 8 questions


def points(a, b, n, seeds=3):
    """Rows of a summary: one method, the same numbers in each seed but for a thousandth."""
    rows = [
        {"method": "gd", "rank": 0, "seed": seed, "attack": "full", "point": "selected", "found": 1, "V_n": 1000, "kl": 0.0,
         "retain": 1.0, "retain_drop": 0.0, "recovery": b, "recovery_corrected": b, "recovery_two_fold": b,
         "recovery_corrected_two_fold": b, "A": a, "B": b, "C": 1.0, "N": n, "B_two_fold": b + seed / 1000, "C_two_fold": 1.0,
         "N_two_fold": n} for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("a", "b", "n", "seeds", "back"),
    [
        (0.2, 0.8, 0.25, 3, True),
        (0.5, 0.5, 0.25, 3, False),  # above the control, but no more than unlearning had left
        (0.0, 0.25, 0.25, 3, False),  # a rise to what the control learns too
        (0.2, 0.8, math.nan, 3, True),  # no model that never knew: chance in its place
        (0.0, 0.25, math.nan, 3, False),
        (0.2, 0.8, 0.25, 1, True),
        (0.79, 0.8, 0.25, 1, False),
        (0.2, 0.8, 0.25, 2, True),
    ],
)
def test_facts_came_back_where_they_rise_above_what_was_left_and_above_the_control(a, b, n, seeds, back):
    found = {f.key: f for f in findings({"summary": points(a, b, n, seeds)})}
    assert found["recovery.gd_0"].supported == back
    assert ("brings back facts" in found["recovery.gd_0"].sentence) == back
    assert found["recovery.hidden"].value == back
    start = "After 1 of 1 method" if back else "After none of 1 method"
    assert found["recovery.hidden"].sentence.startswith(start)
    assert "nan" not in found["recovery.gd_0"].sentence
    assert ("chance of 0.25" in found["recovery.gd_0"].sentence) == math.isnan(n)


def test_seeds_without_a_point_are_told_and_an_attack_that_lowers_accuracy_is_no_return():
    rows = points(0.6, 0.5, 0.25)
    prompted = rows.assign(attack="prompt")
    missing = rows.tail(1).assign(found=0, seed=3)
    told = {f.key: f for f in findings({"summary": pd.concat([rows, prompted, missing])})}
    assert told["recovery.gd_0_none"].sentence == (
        "No run of GD kept what had to be retained in 1 of 4 seeds; its numbers are of the others."
    )
    assert "from 0.60 to 0.50" in told["recovery.prompt_gd_0"].sentence
    assert not told["recovery.prompt_gd_0"].supported
    wide = points(0.2, 0.6, 0.25).assign(B_two_fold=[0.2, 0.6, 1.0])
    unsettled = {f.key: f for f in findings({"summary": wide})}["recovery.gd_0"]
    assert "these seeds do not settle" in unsettled.sentence


def test_runs_have_an_id_that_depends_on_all_that_they_depend_on(settings, tmp_path):
    file = tmp_path / "runs" / "method~gd" / "rank~0" / "lr~0.002" / "retain~2" / "seed~1.csv"
    file.parent.mkdir(parents=True)
    row = {
        "set": "forget",
        "split": "split_0",
        "half": "all",
        "metric": "cloze",
        "value": 0.5,
        "n": 8,
        "epoch": 1,
        "ended": "",
    }
    pd.DataFrame([row]).to_csv(file, index=False)
    table = tables.unlearn_table([str(file)], settings)
    assert table.loc[0, ["objective", "parametrisation", "method"]].tolist() == ["gd", "full", "gd"]
    other = {**settings, "learn": None}
    assert tables.unlearn_table([str(file)], other).loc[0, "run_id"] != table.loc[0, "run_id"]
    assert tables.coordinates("x/method~a_b/seed~3.json") == {"method": "a_b", "seed": "3"}
