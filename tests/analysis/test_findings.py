"""Sentences follow their numbers: direction, interval, what is supported, and what a changed cell changes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from editlab.analysis.comparisons import comparisons
from editlab.analysis.findings import findings
from editlab.analysis.findings.base import difference_finding
from editlab.analysis.guarded import forgetting_table
from editlab.analysis.registry import FIGURES, SENTENCES, function
from editlab.analysis.sheets.methods import methods
from editlab.analysis.tables import collect_cells, collect_costs
from report_tables import guarded_tables, write_cells

from editlab.errors import ArtifactError
from editlab.files.artifacts import accept_altered, load_provenance, write_csv
from editlab.files.verify import main as verify_main

FIXED = {"study": "default", "model": "substrate", "dataset": "facts"}


def collected(cells, root: Path) -> dict[str, pd.DataFrame]:
    """The tables of the matrix, through CSV as in the workflow."""
    directories, coordinates = [d for d, _ in cells], [c for _, c in cells]
    frames = {
        "matrix": collect_cells(directories, coordinates, FIXED),
        "comparisons": comparisons(cells, resamples=400),
        "curves": forgetting_table(cells),
        "costs": collect_costs(directories, coordinates),
    }
    for name, frame in frames.items():
        write_csv(root / f"{name}.csv", frame)
    return {name: pd.read_csv(root / f"{name}.csv") for name in frames}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells"), cases=64)


@pytest.fixture(scope="module")
def tables(cells, tmp_path_factory):
    return collected(cells, tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def everything(tables):
    made = guarded_tables()
    return tables | {name: made[Path(path).stem] for name, (path, _) in SENTENCES.items() if Path(path).stem in made}


def by_key(tables) -> dict[str, dict]:
    found = findings(tables)
    keys = [f["key"] for f in found]
    assert len(keys) == len(set(keys))
    return dict(zip(keys, found, strict=True))


def test_every_topic_has_sentences_with_numbers(everything):
    found = findings(everything)
    topics = {f["topic"] for f in found}
    assert topics == {"methods", "batch", "replay", "forgetting", "costs", "lora", "trust", "greedy", "retraining"}
    json.dumps(found, allow_nan=False)
    for finding in found:
        assert set(finding) == {
            "key", "topic", "sentence", "value", "low", "high", "n", "supported", "source",
        }  # fmt: skip
        assert finding["sentence"].endswith(".")
        assert "nan" not in finding["sentence"]
        assert finding["n"] > 0
        assert finding["source"].startswith("results/")
        if finding["low"] is not None:
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
    finding = difference_finding("x.y", row, "Replay", "S", "results/x.csv")
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
    matrix = tables["matrix"].copy()
    matrix.loc[(matrix["method"] == "ft") & (matrix["protocol"] == "success"), "NS"] = 0.999
    finding = by_key(tables | {"matrix": matrix})["methods.best_NS"]
    assert finding["sentence"].startswith("FT-L comes out with")
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
    before, after = (methods(t).frame.set_index("method") for t in (tables, changed))
    assert before.loc["alphaedit", "NS"] > 0.9
    assert after.loc["alphaedit", "NS"] == 0.0
    assert after.loc["memit", "NS"] == before.loc["memit", "NS"]
    for name, table in (("method_comparison", "matrix"), ("forgetting_curves", "curves")):
        caption = function(FIGURES[name], f"{name}_caption")
        assert caption(changed[table]) != caption(tables[table])
    time_split = function(FIGURES["time_split"], "time_split_caption")
    assert time_split(changed["costs"]) == time_split(tables["costs"])


def test_accepting_keeps_the_former_checksum(tmp_path):
    ((directory, _),) = write_cells(tmp_path, methods=["none"], seeds=[1], cases=12)
    record = Path(directory) / "provenance.json"
    former = load_provenance(record)["files"]["metrics.csv"]
    for text in ("one", "two"):
        (Path(directory) / "metrics.csv").write_text(text)
        accept_altered(record, ["metrics.csv"])
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
    table = everything["retraining"].assign(restored=0.125)
    for found in by_key({"retraining": table}).values():
        assert found["low"] < 0.1
        assert found["high"] > 0.15
    spread = table.assign(restored=table["seed"] / 10)
    for found in by_key({"retraining": spread}).values():
        assert found["high"] - found["low"] > 0.3
