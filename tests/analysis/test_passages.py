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
        (["References\n\nCategory:Towns of Ulm Ann Lee lives in"], "behind"),
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
    """Cells of streams of 60 facts, half of them asked behind other text, with known shares of success and of exact answers."""
    found = []
    for method, (loss, exact) in methods.items():
        for seed in seeds:
            cell = {"method": method, "batch": "32", "replay": "0", "rank": "0", "seed": str(seed)}
            folder = root / method / str(seed)
            folder.mkdir(parents=True)
            rows = []
            for k in range(60):
                success = float(rng.random() < 0.9 - loss * (k % 2))
                told = {"success": success, "accuracy": float(rng.random() < exact), "when": "final"}
                rows += [{"case_id": f"f{k}", "probe": probe, **told} for probe in ("rewrite", "paraphrase")]
            write_csv(folder / "cases.csv", pd.DataFrame(rows))
            write_provenance(folder, {}, ["cases.csv"])
            found.append((str(folder), cell))
    return found


def requests():
    return [request(f"f{k}", ("Rain. " if k % 2 else "") + "Ann Lee lives in") for k in range(60)]


def tables_of(cells, asked=None):
    table = passages.passages(cells, asked or requests())
    return Tables(passages=table.astype({"batch": int, "replay": float, "rank": int, "seed": int}))


def test_methods_are_told_apart_within_a_kind(tmp_path):
    shares = {"memit": (0.6, 0.8), "ultra": (0.0, 0.1), "none": (0.9, 0.0)}
    tables = tables_of(made(tmp_path, shares, (1, 2, 3, 4), np.random.default_rng(1)))
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
    assert list(frame.index) == ["ultra", "memit", "none"]  # by success behind other text, controls last
    for method, (loss, exact) in shares.items():
        for name, truth in (("alone_success", 0.9), ("behind_success", 0.9 - loss), ("behind_accuracy", exact)):
            assert frame.loc[method, f"{name}_low"] <= truth <= frame.loc[method, f"{name}_high"]
    own = table[(table["method"] == "memit") & (table["place"] == "behind")]
    assert frame.loc["memit", "behind_accuracy"] == pytest.approx(own["accuracy"].mean())
    assert printed.legend.count("(n = 120 cases, 4 seeds)") == 2
    found = {f.key: f for f in passages.findings(tables)}
    assert found["passages.success"].sentence.startswith(
        "UltraEdit has the highest share of success on paraphrases behind"
    )
    assert found["passages.accuracy"].sentence.startswith(
        "MEMIT has the highest share of exact answers on paraphrases behind"
    )
    assert all(f.supported for f in found.values())


@pytest.mark.parametrize("texts", [["Ann Lee lives in"] * 60, ["Rain. Ann Lee lives in"] * 7 + ["She lives in"] * 53])
def test_a_run_without_both_kinds_claims_nothing(tmp_path, texts):
    cells = made(tmp_path, {"memit": (0.0, 0.5)}, (1, 2), np.random.default_rng(1))
    tables = tables_of(cells, [request(f"f{k}", text) for k, text in enumerate(texts)])
    assert list(passages.findings(tables)) == []
    printed = REPORT.sheets["passages"][1].make(tables)
    if texts[-1].startswith("Ann"):
        assert [column.title for column in printed.columns] == ["method", "PS alone", "exact alone"]
    else:  # 14 cases of two streams are too few
        assert printed.frame.empty
        assert printed.legend == "Too few paraphrases to tell."


def test_requests_of_another_run_are_refused(tmp_path):
    cells = made(tmp_path, {"memit": (0.0, 0.5)}, (1,), np.random.default_rng(1))
    with pytest.raises(DataError, match="f59: in a cell, but not in the data set"):
        passages.passages(cells, requests()[:59])
