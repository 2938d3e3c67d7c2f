"""Sentences follow their numbers: direction, interval, what is supported, and what a changed cell changes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_tables import collected_tables, made_up_tables, write_cells

from editlab.analysis.edit import REPORT
from editlab.analysis.edit.methods import methods_sheet
from editlab.analysis.report.making import all_findings, caption_of
from editlab.analysis.text.findings import difference_finding
from editlab.errors import ArtifactError
from editlab.files.artifacts import accept_altered, load_provenance, record_of, write_csv
from editlab.files.verify import main as verify_main

MATRIX = ("ablation_matrix", "comparisons", "curves", "costs")


def collected(cells, root: Path) -> dict[str, pd.DataFrame]:
    """The tables of the matrix, through CSV as in the workflow."""
    for name, frame in collected_tables(cells, MATRIX).items():
        write_csv(root / f"{name}.csv", frame)
    return {name: pd.read_csv(root / f"{name}.csv") for name in MATRIX}


def findings(tables) -> list[dict]:
    return all_findings("edit", tables)


def caption(name: str, tables) -> str:
    topic, figure = REPORT.figures[name]
    return caption_of(topic, figure, tables)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells"), cases=64)


@pytest.fixture(scope="module")
def tables(cells, tmp_path_factory):
    return collected(cells, tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def everything(tables):
    return tables | made_up_tables()


def by_key(tables) -> dict[str, dict]:
    found = findings(tables)
    keys = [f["key"] for f in found]
    assert len(keys) == len(set(keys))
    return dict(zip(keys, found, strict=True))


def test_every_topic_has_sentences_with_numbers(everything):
    found = findings(everything)
    topics = {f["topic"] for f in found}
    assert topics == set(REPORT.names) - {
        "speed",
        "shortfalls",
    }  # these streams are two, and no model was trained on their facts
    json.dumps(found, allow_nan=False)
    for finding in found:
        assert set(finding) == {
            "key", "study", "topic", "sentence", "value", "low", "high", "n", "supported", "source",
        }  # fmt: skip
        assert finding["sentence"].endswith(".")
        assert "nan" not in finding["sentence"]
        assert finding["n"] > 0
        assert finding["source"].removesuffix(".csv") in REPORT.tables
        if finding["low"] is not None and finding["value"] is not None:
            assert finding["low"] <= finding["value"] <= finding["high"]


def test_fewer_tables_give_fewer_sentences(everything):
    assert findings({}) == []
    all_of_them = {f["key"] for f in findings(everything)}
    for name in everything:
        without = {f["key"] for f in findings({k: v for k, v in everything.items() if k != name})}
        assert without <= all_of_them
        empty = {k: v.iloc[:0] if k == name else v for k, v in everything.items()}
        assert {f["key"] for f in findings(empty)} <= all_of_them


@pytest.mark.parametrize("case", range(60))
def test_a_sentence_on_a_difference_agrees_with_its_interval(case):
    rng = np.random.default_rng(case)
    value = float(rng.normal(0, 0.05))
    low, high = value - float(rng.random()) * 0.1, value + float(rng.random()) * 0.1
    row = {"value": value, "ci_low": low, "ci_high": high, "n": 10}
    finding = difference_finding("x.y", row, "Replay", "S", "x")
    said = {verb: verb in finding.sentence for verb in ("raises", "lowers", "no measurable difference")}
    assert said == {"raises": low > 0, "lowers": high < 0, "no measurable difference": low <= 0 <= high}
    assert finding.supported == (low > 0 or high < 0)
    numbers = [abs(float(x.replace("−", "-"))) for x in re.findall(r"[−+]?\d\.\d+", finding.sentence)]
    assert numbers[0] == pytest.approx(abs(value), abs=6e-4)


def test_the_best_method_is_claimed_only_with_the_paired_test(tables):
    found = by_key(tables)
    assert found["methods.best_NS"]["supported"]
    assert found["methods.best_NS"]["sentence"].startswith("AlphaEdit has the highest neighbourhood (NS)")
    assert not found["methods.best_ES"]["supported"]
    assert "does not set it apart from" in found["methods.best_ES"]["sentence"]
    unpaired = by_key(tables | {"comparisons": tables["comparisons"].iloc[:0]})
    assert not unpaired["methods.best_NS"]["supported"]
    assert found["methods.control_none"]["value"] == 0.0


def test_a_matrix_that_contradicts_the_cases_supports_nothing(tables):
    """Someone raised FT-L's numbers in the table: the paired test on the cases does not bear them out."""
    matrix = tables["ablation_matrix"].copy()
    matrix.loc[(matrix["method"] == "ft") & (matrix["protocol"] == "success"), "NS"] = 0.999
    finding = by_key(tables | {"ablation_matrix": matrix})["methods.best_NS"]
    assert finding["sentence"].startswith("FT-L scores the highest")
    assert not finding["supported"]


def worsened(directory: Path) -> None:
    """All neighbours of a cell lost, by hand, in all of its files that say so."""
    for name in ("cases.csv", "metrics.csv", "curve.csv"):
        table = pd.read_csv(directory / name, dtype={"case_id": str})
        if name == "cases.csv":
            table.loc[table["probe"] == "neighborhood", "success"] = 0.0
        elif name == "metrics.csv":
            hit = table["metric"].isin(["NS", "S"]) & (table["protocol"] == "success")
            table.loc[hit, ["value", "ci_low", "ci_high"]] = 0.0
        else:
            table.loc[table["metric"] == "neighborhood_success", "value"] = 0.0
        table.to_csv(directory / name, index=False)


def test_a_cell_altered_by_hand_is_refused_until_accepted_and_then_seen_everywhere(tables, tmp_path, capsys):
    cells = write_cells(tmp_path / "results", cases=64)
    for directory, cell in cells:
        if cell["method"] == "alphaedit":
            worsened(Path(directory))
    with pytest.raises(ArtifactError, match=r"altered since it was made; rebuild with"):
        collected(cells, tmp_path)
    assert verify_main([str(tmp_path / "results")]) == 1
    assert "to keep altered files as they are: python -m editlab.files.verify --accept" in capsys.readouterr().out
    verify_main([str(tmp_path / "results"), "--accept"])
    assert capsys.readouterr().out.count("accepted as it is") == 3 * 8
    assert verify_main([str(tmp_path / "results")]) == 0
    changed = collected(cells, tmp_path)
    assert by_key(changed)["methods.best_NS"]["sentence"] != by_key(tables)["methods.best_NS"]["sentence"]
    assert "AlphaEdit" not in by_key(changed)["methods.best_NS"]["sentence"].split("has the highest")[0]
    assert by_key(changed)["costs.memit"] == by_key(tables)["costs.memit"]
    before, after = (methods_sheet.make(t).frame.set_index("method") for t in (tables, changed))
    assert before.loc["alphaedit", "NS"] > 0.9
    assert after.loc["alphaedit", "NS"] == 0.0
    assert after.loc["memit", "NS"] == before.loc["memit", "NS"]
    for name in ("method_radar", "forgetting_curves"):
        assert caption(name, changed) != caption(name, tables)
    assert caption("time_split", changed) == caption("time_split", tables)


def test_accepting_keeps_the_former_checksum(tmp_path):
    ((directory, _),) = write_cells(tmp_path, methods=["none"], seeds=[1], cases=12)
    record = record_of(directory)
    former = load_provenance(record)["files"]["metrics.csv"]
    for text in ("one", "two"):
        (Path(directory) / "metrics.csv").write_text(text)
        accept_altered(directory, ["metrics.csv"])
    found = load_provenance(record)
    assert found["accepted"] == {"metrics.csv": former}
    assert found["files"]["metrics.csv"] != former
    shutil.rmtree(directory)


@pytest.mark.parametrize(("ratio", "said"), [(12.0, "12 times its"), (0.08, "8 % of its"), (1.0, None)])
def test_what_a_gain_was_bought_with_is_said(everything, ratio, said):
    gain = everything["greedy_gain"].assign(stored_ratio=ratio)
    found = by_key({**everything, "greedy_gain": gain})
    sentences = [f["sentence"] for key, f in found.items() if key.startswith("greedy.greedy")]
    assert sentences
    assert all((f"(storing {said} numbers)" in s) if said else "storing" not in s for s in sentences)


def test_seeds_that_agree_by_chance_know_no_more_than_their_facts(everything):
    table = everything["rtt_edits"].assign(restored=0.125)
    for found in by_key({"rtt_edits": table}).values():
        assert found["low"] < 0.1
        assert found["high"] > 0.15
    spread = table.assign(restored=table["seed"] / 10)
    for found in by_key({"rtt_edits": spread}).values():
        assert found["high"] - found["low"] > 0.3
