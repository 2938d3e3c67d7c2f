"""Paraphrases behind other text: which they are, and what is said of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from editlab.analysis.edit import REPORT, passages
from editlab.analysis.report.topic import Tables
from editlab.data.requests import EditRequest
from editlab.errors import DataError
from editlab.files.artifacts import write_csv, write_provenance


def request(case, *paraphrases, subject="Ann Lee"):
    return EditRequest(
        case_id=case,
        relation_id="R",
        prompt="{} lives in",
        subject=subject,
        target_new="Bern",
        target_true="Ulm",
        paraphrase_prompts=paraphrases,
    )


@pytest.mark.parametrize(
    ("prompts", "place"),
    [
        (["A summer day. Ann Lee lives in"], "behind"),
        (['He said "no." Ann Lee lives in'], "behind"),
        (["It rained! The home of Ann Lee is"], "behind"),
        (["Ann Lee lives in", "The home of Ann Lee is"], "alone"),
        (["Ann Lee left. Her home is"], "alone"),  # the passage is the fact's own
        (["A summer day. Ann Lee lives in", "The home of Ann Lee is"], None),
        (["A summer day. She lives in"], None),
        ([], None),
    ],
)
def test_where_a_paraphrase_stands(prompts, place):
    assert passages.places([request("a", *prompts)]).get("a") == place


def made(root, methods, seeds, rng):
    """Cells of streams of 60 facts, half of them asked behind other text, where a method loses a known share."""
    found = []
    for method, loss in methods.items():
        for seed in seeds:
            cell = {"method": method, "batch": "32", "replay": "0", "rank": "0", "seed": str(seed)}
            folder = root / method / str(seed)
            folder.mkdir(parents=True)
            rows = [
                {"case_id": f"f{k}", "probe": probe, "success": s, "accuracy": s / 2, "when": "final"}
                for k in range(60)
                for probe, s in (("rewrite", 1.0), ("paraphrase", float(rng.random() < 0.9 - loss * (k % 2))))
            ]
            write_csv(folder / "cases.csv", pd.DataFrame(rows))
            write_provenance(folder, {}, ["cases.csv"])
            found.append((str(folder), cell))
    return found


def requests():
    return [request(f"f{k}", ("Rain. " if k % 2 else "") + "Ann Lee lives in") for k in range(60)]


def tables_of(cells):
    table = passages.passages(cells, requests())
    return Tables(passages=table.astype({"batch": int, "replay": float, "rank": int, "seed": int}))


def test_the_two_kinds_are_told_apart_by_method_and_stream(tmp_path):
    cells = made(tmp_path, {"memit": 0.6, "ultra": 0.0, "none": 0.9}, (1, 2, 3, 4), np.random.default_rng(1))
    tables = tables_of(cells)
    table = tables["passages"]
    assert len(table) == 3 * 4 * 2
    assert (table["n"] == 30).all()
    one = pd.read_csv(tmp_path / "memit" / "2" / "cases.csv")
    one = one[(one["probe"] == "paraphrase") & one["case_id"].isin([f"f{k}" for k in range(1, 60, 2)])]
    told = table[(table["method"] == "memit") & (table["seed"] == 2) & (table["place"] == "behind")].iloc[0]
    assert told["success"] == pytest.approx(one["success"].mean())
    assert told["accuracy"] == pytest.approx(one["accuracy"].mean())
    printed = REPORT.sheets["passages"][1].make(tables)
    frame = printed.frame.set_index("method")
    assert list(frame.index) == ["ultra", "memit", "none"]  # by what they answer behind other text, controls last
    for method, loss in (("memit", 0.6), ("ultra", 0.0)):
        row = frame.loc[method]
        assert row["difference_low"] <= -loss <= row["difference_high"]
        assert row["difference"] == pytest.approx(row["behind"] - row["alone"])
    assert frame.loc["memit", "difference_high"] < 0
    found = {f.key: f for f in passages.findings(tables)}
    assert set(found) == {"passages.alone", "passages.behind"}
    assert found["passages.behind"].sentence.startswith(
        "UltraEdit has the highest success on paraphrases behind other text"
    )
    assert found["passages.behind"].supported
    assert not found["passages.alone"].supported


def test_a_run_whose_questions_all_stand_alone_has_nothing_to_say(tmp_path):
    cells = made(tmp_path, {"memit": 0.0}, (1, 2, 3), np.random.default_rng(1))
    alone = [request(f"f{k}", "Ann Lee lives in") for k in range(60)]
    table = passages.passages(cells, alone)
    assert set(table["place"]) == {"alone"}
    assert list(passages.findings(Tables(passages=table))) == []
    printed = REPORT.sheets["passages"][1].make(Tables(passages=table))
    assert printed.frame.empty
    assert printed.legend.startswith("No method was asked")


def test_requests_of_another_run_are_refused(tmp_path):
    cells = made(tmp_path, {"memit": 0.0}, (1,), np.random.default_rng(1))
    with pytest.raises(DataError, match="f59: in a cell, but not in the data set"):
        passages.passages(cells, requests()[:59])
