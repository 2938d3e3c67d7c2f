"""Printed tables and escapes: bold only where a paired test supports it, nothing from data runs anywhere."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_parts
from fabricated import control_rows
from report_tables import SKILL, collected_tables, made_up_tables, write_cells

from editlab.analysis.edit import REPORT, readme, streams
from editlab.analysis.edit.cells import EDITING, score_row
from editlab.analysis.edit.comparisons import between, clear_winner, comparisons
from editlab.analysis.edit.decisions import worth
from editlab.analysis.edit.methods import setting
from editlab.analysis.edit.scores import headline_settings, pooled_scores, with_replay
from editlab.analysis.paper import tabular
from editlab.analysis.report.making import print_table, write_caption
from editlab.analysis.report.topic import Tables
from editlab.analysis.statistics.intervals import mean_interval, pooled, wilson
from editlab.analysis.text import latex, wording
from editlab.errors import ArtifactError, DataError
from editlab.files.artifacts import write_csv

HOSTILE = '\\input{/etc/passwd} $x$ & 100% #1 _a^b~ {c} <script>alert("1")</script> `raw`_ |s| =cmd() .. include:: x'


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells"), cases=64)


@pytest.fixture(scope="module")
def tables(cells):
    found = made_up_tables() | collected_tables(cells, ("ablation_matrix", "comparisons", "costs", "curves"))
    axes = {"batch": int, "replay": float, "rank": int, "seed": int}
    found |= {name: found[name].astype(axes) for name in ("ablation_matrix", "costs", "curves")}
    found |= dict.fromkeys(("combined", "quick_validation"), found["ablation_matrix"])
    return Tables(found, trained_model=trained_model(found["ablation_matrix"]["seed"].unique()))


def trained_model(seeds):
    """What the model that was trained on the new facts scores in each stream."""
    scores = [score_row(control_rows(np.random.default_rng(s), [f"f{k}" for k in range(48)]), "success") for s in seeds]
    place = {"method": "trained", "batch": 1, "replay": 0.0, "rank": 0, "when": "final", "perplexity": 5.0}
    return pd.DataFrame([{**place, "seed": s, **row} for s, row in zip(seeds, scores, strict=True)])


def sheet(name, tables):
    return REPORT.sheets[name][1].make(tables)


@pytest.mark.parametrize("name", REPORT.sheets)
def test_every_table_has_numbers_and_latex(tables, name, tmp_path):
    found = sheet(name, tables)
    paths = {k: tmp_path / k for k in ("csv", "tex", "rst", "caption")}
    print_table("edit", REPORT.sheets[name][0].name, name, tables, paths)
    tex = paths["tex"].read_text(encoding="utf-8")
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == 1
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == min(len(found.frame), tabular.ROWS) + (len(found.frame) > tabular.ROWS)
    shown = [c for c in found.columns if c.name in found.frame]
    assert {line.count(" & ") for line in body[: tabular.ROWS]} == {len(shown) - 1}
    assert name in ("missed_facts", "shortfalls") or re.search(r"\\tiny\[", tex), "no interval"  # of two streams none
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text(encoding="utf-8"))))
    assert len(rows) == len(found.frame)
    assert re.search(r"n = |range over|\d+ edited fact", found.legend)
    assert paths["caption"].read_text(encoding="utf-8").strip() == latex.escape(found.legend)


def test_bold_only_where_the_paired_test_supports_it(tables):
    frame = sheet("methods", tables).frame.set_index("method")
    compared = tables["comparisons"]
    inside = list(frame.index[~frame["control"]])
    for metric in ("ES", "PS", "NS", "S"):
        bold = list(frame.index[frame[f"{metric}_best"]])
        best = frame.loc[inside, metric].idxmax()
        assert bold == ([best] if clear_winner(compared, best, inside, metric) else [])
    assert frame.loc["alphaedit", "NS_best"]  # 0.94 against 0.87
    assert not frame["ES_best"].any()  # 0.99 against 0.97 of 128 cases
    assert not frame.loc[["none", "random"], [f"{m}_best" for m in ("ES", "PS", "NS", "S")]].any().any()
    without = sheet("methods", tables | {"comparisons": compared.iloc[:0]}).frame
    assert not without["NS_best"].any()


def test_bold_in_the_table_of_every_setting_is_by_block(tables):
    frame = sheet("ablation", tables).frame
    best = frame[frame["NS_best"]]
    assert set(best["method"]) == {"alphaedit"}
    assert not best.duplicated(["batch", "replay", "rank"]).any()


def test_comparisons_by_hand(cells, tables):
    compared = tables["comparisons"]
    found = between(compared, "alphaedit", "ft", "NS")
    back = between(compared, "ft", "alphaedit", "NS")
    assert found.value == -back.value
    assert (found.low, found.high) == (-back.high, -back.low)
    scores = pooled_scores(tables["ablation_matrix"])
    at = scores[(scores["batch"] == 32) & (scores["replay"] == 0) & (scores["metric"] == "NS")].set_index("method")
    assert found.value == pytest.approx(at.loc["alphaedit", "value"] - at.loc["ft", "value"], abs=1e-5)
    assert between(compared, "alphaedit", "nobody", "NS") is None
    replay = compared[compared["kind"] == "replay"]
    assert set(replay["a_replay"]) == {0.3}
    assert set(replay["b_replay"]) == {0.0}
    assert set(compared[compared["kind"] == "batch"]["a"]) == set(SKILL) - {"rome", "none"}


def test_comparisons_refuse_other_cases(cells, tmp_path):
    one = write_cells(tmp_path / "a", methods=["memit"], seeds=[1], cases=16)
    two = write_cells(tmp_path / "b", methods=["emmet"], seeds=[1], cases=20)
    with pytest.raises(DataError, match="same cases"):
        comparisons(one + two)
    three = write_cells(tmp_path / "c", methods=["emmet"], seeds=[2], cases=16)
    assert set(comparisons(one + three)["kind"]) == {"batch", "replay"}  # no common seed
    assert comparisons([]).empty


def test_headline_takes_the_batch_that_half_of_the_methods_have(tables):
    chosen = headline_settings(tables["ablation_matrix"]).set_index("method")["batch"].to_dict()
    assert chosen == {m: 1 if m in ("rome", "none") else 32 for m in SKILL}
    settings = pd.DataFrame(
        [("a", 512, 0, 0), ("a", 8, 0, 0), ("b", 8, 0.3, 4), ("b", 8, 0.3, 8)],
        columns=["method", "batch", "replay", "rank"],
    )
    assert headline_settings(settings).to_numpy().tolist() == [["a", 8, 0.0, 0], ["b", 8, 0.3, 8]]


def test_escape_leaves_no_command():
    text = latex.escape(HOSTILE + " ünïcode ☃ − Δ\nnext")
    assert "\n" not in text
    commands = set(re.findall(r"\\[A-Za-z]+|\\.", text))
    allowed = {r"\textbackslash", r"\textasciicircum", r"\textasciitilde", r"\textless", r"\textgreater", r"\textbar"}
    allowed |= {r"\textquotedbl", r"\textquotesingle", r"\textasciigrave", r"\Delta"}
    assert commands <= allowed | {r"\{", r"\}", r"\$", r"\&", r"\#", r"\%", r"\_"}
    assert "ünïcode [U+2603] $-$ $\\Delta$ next" in text


def test_names_are_escaped_in_every_output(tmp_path):
    frame = pd.DataFrame({"method": [HOSTILE], "S": [0.5], "S_low": [0.4], "S_high": [0.6], "kind": ["=1+1"]})
    columns = [
        tabular.Column("method", "a & b", "method"),
        tabular.Column("S", "S"),
        tabular.Column("kind", "kind", "text"),
    ]
    tex = tabular.tabular(frame, columns, "results/x_y.csv")
    assert r"\input" not in tex
    assert "a \\& b" in tex
    assert len([line for line in tex.splitlines() if line.endswith(r"\\")]) == 2
    paths = {k: tmp_path / k for k in ("rst", "tex")}
    write_caption(HOSTILE, paths)
    html = publish_parts(paths["rst"].read_text(encoding="utf-8"), writer="html")["body"]
    assert "<script" not in html
    assert "system-message" not in html
    shown = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert shown.replace("&amp;", "&").strip() == " ".join(HOSTILE.split())


def test_a_printed_table_is_defused_and_its_source_is_not(tables, tmp_path):
    paths = {k: tmp_path / k for k in ("csv", "tex", "rst", "caption")}
    missed = tables["missed_facts"].assign(prompt="=1+1")
    print_table("edit", "missed", "missed_facts", {"missed_facts": missed}, paths)
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text(encoding="utf-8"))))
    assert {row["prompt"] for row in rows} == {"'=1+1"}


def test_the_headline_setting_names_the_exceptions():
    rows = [("memory", 32, 0.0), ("ft_all", 5000, 0.0), ("ft_replay", 32, 1.0), ("ultra", 32, 0.0)]
    table = pd.DataFrame(rows, columns=["method", "batch", "replay"])
    assert setting(table) == "batch 32 (FT all at once: 5000), no replay (FT in epochs with replay: 1)"
    assert setting(table[:1]) == "batch 32, no replay"
    assert setting(table[2:3]) == "batch 32, replay 1"


def test_numbers_as_text():
    assert wording.level(0.9449) == "0.94"
    assert wording.level(float("nan")) == "–"
    assert wording.level(-0.001) == "0.00" or wording.level(-0.001) == "−0.00"
    assert wording.signed(-0.0181) == "−0.018"
    assert wording.signed(0.0001) == "0.000"
    assert wording.signed_with(0.1, 0.05, 0.15, 2) == "+0.10 (+0.05 to +0.15)"
    assert wording.label("emmet_lora") == "EMMET LoRA"
    assert wording.label("r_rome") == "R-ROME"
    assert wording.label("r_rome_lora") == "R-ROME LoRA"
    assert wording.label("ft_epochs_lora") == "FT in epochs LoRA"
    assert wording.label("ft_epochsy") == "FT-L epochsy"
    assert with_replay({"method": "ft_replay", "replay": 1.0}) == "FT in epochs with replay 1"
    assert with_replay({"method": "memit_noreplay", "replay": 0.3}) == "MEMIT noreplay with replay 0.3"
    assert with_replay({"method": "memit", "replay": 0.0}) == "MEMIT"
    assert wording.label("greedy3_scaled") == "greedy3 scaled"
    assert wording.listed(["a"]) == "a"
    assert wording.listed(["a", "b", "c"]) == "a, b and c"
    assert tabular.number_text(-0.0004, tabular.Column("x", "x", "difference", 3)) == "0.000"


@pytest.mark.parametrize("case", range(40))
def test_the_leading_sentence_never_claims_what_overlaps(case):
    rng = np.random.default_rng(case)
    rows = []
    for i in range(4):
        value = float(rng.random())
        rows.append((f"M{i}", value, value - 0.1 * float(rng.random()), value + 0.1 * float(rng.random())))
    text = wording.leading(rows, "score")
    top, *rest = sorted(rows, key=lambda r: -r[1])
    assert text.startswith(f"{top[0]} has the highest score")
    for name, _, _, high in rest:
        assert (high >= top[2]) == (f"{name}" in text.split(";")[1] and "overlap" in text) or "the next" in text
    assert ("the next" in text) == all(high < top[2] for _, _, _, high in rest)


def test_intervals_by_hand():
    low, high = wilson([0.5, 1.0, 0.0], [10, 10, 10])
    assert low == pytest.approx([0.2366, 0.7225, 0.0], abs=1e-4)
    assert high == pytest.approx([0.7634, 1.0, 0.2775], abs=1e-4)
    # Two seeds: the spread of their cases. Three that differ more than their cases: Student's interval over them.
    assert pooled([0.5, 0.5], [0.4, 0.4], [0.6, 0.6]) == pytest.approx((0.5, 0.5 - 0.1 / 2**0.5, 0.5 + 0.1 / 2**0.5))
    assert pooled([0.2, 0.8], [0.1, 0.7], [0.3, 0.9]) == pytest.approx((0.5, 0.5 - 0.1 / 2**0.5, 0.5 + 0.1 / 2**0.5))
    found = pooled([0.4, 0.5, 0.6], [0.39, 0.49, 0.59], [0.41, 0.51, 0.61])
    assert found == pytest.approx((0.5, 0.5 - 4.3027 * 0.1 / 3**0.5, 0.5 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert pooled([0.1, 0.9, 0.5], [0.0] * 3, [1.0] * 3)[1:] == (0.0, 1.0), "cut at the bounds"
    assert np.isnan(pooled([np.nan], [np.nan], [np.nan])[0])
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert np.isnan(mean_interval([1.0])[1])


def test_worth_of_trust_by_hand():
    place = {"experiment": "trust_eval", "method": "m", "batch": 32, "replay": 0, "rank": 0}
    runs = pd.DataFrame(
        [
            {**place, "seed": s, "n": 16, "harmful": h, "accuracy": a, "false_negative_rate": f, "auc": 0.9}
            | {"retention": 0.8, "retention_unguarded": 0.5, "overhead": 0.1}
            for s, h, a, f in ((1, 0.25, 1.0, 0.0), (2, 0.0, 0.5, np.nan))
        ]
    )
    last = [
        {**place, "seed": s, "edits_seen": 512, "metric": "retention_success", "value": 0.8, "n": 100} for s in (1, 2)
    ]
    found = worth(runs, pd.DataFrame(last))
    assert found["accuracy"][0] == pytest.approx(24 / 32)
    assert found["false_negative_rate"][:2] == pytest.approx((0.0, 0.0))  # of the four harmful batches of one seed
    assert found["false_negative_rate"][2] == pytest.approx(0.4899, abs=1e-3)
    half = 1.96 * ((0.16 + 0.25) / 100 / 2) ** 0.5
    assert found["retention_gain"] == pytest.approx((0.6, (0.3 - half) / 0.5, (0.3 + half) / 0.5), abs=1e-3)
    assert found["overhead"] == pytest.approx((0.1, 0.1, 0.1))


START, END = "<!-- matrix:start -->", "<!-- matrix:end -->"


def test_readme_block(tables, tmp_path):
    found = sheet("methods", tables)
    (tmp_path / "results/tables").mkdir(parents=True)
    (tmp_path / "results/figures").mkdir()
    write_csv(tmp_path / readme.TABLE, found.frame)
    assert not readme.update(tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{START}\nformer text\n{END}\nafter\n")
    with pytest.raises(ArtifactError, match=r"method_comparison\.png: no such file"):
        readme.update(tmp_path)
    (tmp_path / readme.FIGURE).write_bytes(b"picture")
    (tmp_path / "docs").mkdir()
    assert readme.update(tmp_path)
    once = (tmp_path / "README.md").read_text()
    assert readme.update(tmp_path)
    assert (tmp_path / "README.md").read_text() == once
    assert "former text" not in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    rows = [line for line in once.splitlines() if line.startswith("| ")]
    assert len(rows) == len(SKILL) + 1
    best = found.frame[[f"{m}_best" for m in ("ES", "PS", "NS", "S")]].any(axis=1)
    assert [line.split(" | ")[0][2:] for line in rows if "**" in line] == list(found.frame.loc[best, "method"])
    assert best.any()
    assert (tmp_path / readme.COPY).read_bytes() == b"picture"


def test_the_stream_table_joins_what_belongs_together(tables):
    found = REPORT.sheets["streams"][1].make(tables)
    matrix, frame = tables["ablation_matrix"], found.frame.set_index("method")
    assert list(frame.index[-3:]) == ["random", "none", "trained"]  # controls last
    curves = tables["curves"]
    for method, batch in (("memit", 32), ("rome", 1)):
        own = curves[(curves["method"] == method) & (curves["batch"] == batch) & (curves["replay"] == 0)]
        for seen in streams.lengths(own["edits_seen"].tolist()):
            part = own[(own["edits_seen"] == seen) & (own["metric"] == "composite_success")]
            assert frame.loc[method, f"S_{seen}"] == pytest.approx(part["value"].mean())
    cells = matrix[(matrix["method"] == "memit") & (matrix["batch"] == 32) & (matrix["replay"] == 0)]
    assert frame.loc["memit", "ES_exact"] == pytest.approx(cells.drop_duplicates("seed")["ES_exact"].mean())
    assert "ES exact" in [column.title for column in found.columns if column.name in found.frame]
    assert frame.loc["memit", "parameters"] == cells["parameters"].iloc[0] > 0 == frame.loc["none", "parameters"]
    costs = tables["costs"]
    own = costs[(costs["method"] == "memit") & (costs["batch"] == 32) & (costs["replay"] == 0)]
    spent = own[[f"cpu_{stage}" for stage in EDITING]].sum(axis=1).mean()
    assert frame.loc["memit", "cpu_ms"] == pytest.approx(1000 * spent / cells["edits"].iloc[0])
    asked = tables["portability"]
    hops = asked[(asked["method"] == "memit") & (asked["metric"] == "multi_hop") & (asked["protocol"] == "exact")]
    assert frame.loc["memit", "multi_hop"] == pytest.approx(hops["value"].mean())


def test_every_score_is_told_at_every_length(tables):
    curves = tables["curves"]
    text = curves[curves["metric"] == "composite_success"].assign(metric="perplexity", n=100)
    curves = pd.concat([curves, text.assign(value=text["seed"] + text["edits_seen"] / 100)], ignore_index=True)
    few = text.assign(metric="same_subject_success", value=1.0, n=1)
    curves = pd.concat([curves[curves["metric"] != "same_subject_success"], few], ignore_index=True)
    found = REPORT.sheets["streams_on_the_way"][1].make(Tables({**tables, "curves": curves}))
    assert "same_subject_success" not in found.frame  # one case a stream is too few to tell
    frame = found.frame
    own = curves[(curves["method"] == "memit") & (curves["batch"] == 32) & (curves["replay"] == 0)]
    told = frame[frame["method"] == "memit"].set_index("edits_seen")
    assert list(told.index) == streams.lengths(curves["edits_seen"].tolist())
    for seen, row in told.iterrows():
        there = own[own["edits_seen"] == seen]
        for metric in {*streams.ON_THE_WAY, "perplexity"} & set(there["metric"]) - {"same_subject_success"}:
            part = there[there["metric"] == metric]
            assert row[metric] == pytest.approx(part["value"].mean())
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
    assert {"composite_success", "retention_success", "neighborhood_success", "perplexity"} <= set(frame)
    for _, part in frame.groupby("edits_seen"):
        contestants = part[~part["method"].isin(["none", "random", "shuffled"])]
        assert part["method"].tolist()[: len(contestants)] == contestants["method"].tolist()  # controls come last
        assert contestants["composite_success"].is_monotonic_decreasing
    assert frame["edits_seen"].is_monotonic_increasing


def test_the_readme_has_the_streams_of_their_own_run(tables, tmp_path):
    found = sheet("streams", tables).frame
    path = tmp_path / readme.STREAMS
    path.parent.mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"{START}\nas it was\n{END}\n")
    with pytest.raises(ArtifactError, match="no such file"):
        readme.update(tmp_path)
    text = "before\n<!-- streams:start -->\n<!-- streams:end -->\nas it was\n"  # nothing in between yet
    (tmp_path / "README.md").write_text(text)
    write_csv(path, found)
    assert readme.update(tmp_path) == ["streams"]
    once = (tmp_path / "README.md").read_text()
    assert once.startswith("before\n<!-- streams:start -->\n")
    assert once.endswith("<!-- streams:end -->\nas it was\n")
    rows = [line for line in once.splitlines() if line.startswith("| ")]
    assert len(rows) == len(found) + 1
    assert len({row.count("|") for row in rows}) == 1
    assert f"{wording.level(found['S_64'].iloc[0])} (" in rows[1]
    assert readme.update(tmp_path) == ["streams"]
    assert (tmp_path / "README.md").read_text() == once
