"""Intervals that count the stream: coverage by simulation with known truth."""

from __future__ import annotations

import types

import numpy as np
import pandas as pd
import pytest
from fabricated import control_rows
from report_tables import write_cells

from editlab.analysis.edit import REPORT, replay, streams
from editlab.analysis.edit.cells import cells_table, curves_table
from editlab.analysis.edit.comparisons import adjusted, comparisons
from editlab.analysis.edit.costs import costs_table
from editlab.analysis.edit.portability import portability_table
from editlab.analysis.edit.replay import replay_gain_table
from editlab.analysis.edit.scores import headline_settings, pooled_cells
from editlab.analysis.report.making import findings_of, read_table
from editlab.analysis.report.topic import Tables
from editlab.analysis.statistics.intervals import pooled, wilson
from editlab.analysis.statistics.paired import difference, resampled
from editlab.analysis.statistics.streams import holm, over_streams
from editlab.analysis.text.findings import difference_finding

STREAMS = 1500


def simulated(seed: int, streams: int, cases: int, between: float, effect: float):
    """(S,) differences of two methods' shares on the same cases, with an effect that varies from stream to stream."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0.6, 0.08, size=(streams, 1))
    shift = rng.normal(effect, between, size=(streams, 1))
    luck = rng.random((streams, cases))
    a, b = luck < np.clip(base + shift, 0, 1), luck < base
    return (a.mean(1) - b.mean(1)), a, b


@pytest.mark.parametrize("streams", [3, 5, 8])
@pytest.mark.parametrize("between", [0.02, 0.06])
def test_the_interval_of_a_difference_covers_the_truth_over_streams(streams, between):
    hits = 0
    for k in range(STREAMS):
        differences, _, _ = simulated(k, streams, 200, between, 0.03)
        found = over_streams(differences)
        hits += found.low <= 0.03 <= found.high
    assert 0.93 <= hits / STREAMS <= 0.97


def test_an_interval_over_cases_alone_would_not():
    """What was done before: all cases of all streams drawn anew, as if they were independent."""
    hits = 0
    for k in range(300):
        _, a, b = simulated(k, 3, 200, 0.06, 0.03)
        cases = (a.astype(float) - b).ravel()
        half = 1.96 * cases.std() / len(cases) ** 0.5
        hits += abs(cases.mean() - 0.03) <= half
    assert hits / 300 < 0.7


@pytest.mark.parametrize("streams", [3, 5])
def test_paired_differences_of_cells_count_the_stream(streams):
    """What the tables say of methods that do not differ: at most one interval in twenty excludes zero, not most of them."""
    hits = 0
    for k in range(300):
        _, a, b = simulated(k, streams, 120, 0.06, 0.0)
        sides = [[x[:, None].astype(float) for x in side] for side in (a, b)]
        one, other = resampled(sides, lambda means: means, resamples=50, seed=k)
        found = difference(one, other, 0)
        hits += found["ci_low"] <= 0 <= found["ci_high"]
    assert hits / 300 >= 0.92


def test_two_streams_are_told_as_these_streams():
    sides = [[np.ones((9, 1)), np.zeros((9, 1))], [np.zeros((9, 1))] * 2]
    found = difference(*resampled(sides, lambda means: means, resamples=50), 0)
    assert (found["value"], found["general"]) == (0.5, False)


@pytest.mark.parametrize("streams", [3, 5])
def test_the_interval_of_a_share_covers_the_truth_over_streams(streams):
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(STREAMS):
        truth = np.clip(rng.normal(0.7, 0.05, streams), 0, 1)
        shares = rng.binomial(128, truth) / 128
        found = pooled(shares, *wilson(shares, [128] * streams))
        hits += found.low <= 0.7 <= found.high
    assert 0.93 <= hits / STREAMS <= 0.97


def test_two_streams_have_the_interval_of_their_cases_alone():
    """Which covers their own mean, and not that of streams in general: the reason why a sentence says so."""
    rng = np.random.default_rng(6)
    own = general = 0
    for _ in range(STREAMS):
        truth = np.clip(rng.normal(0.7, 0.1, 2), 0, 1)
        shares = rng.binomial(128, truth) / 128
        found = pooled(shares, *wilson(shares, [128] * 2))
        own += found.low <= truth.mean() <= found.high
        general += found.low <= 0.7 <= found.high
    assert 0.93 <= own / STREAMS <= 0.97
    assert general / STREAMS < 0.75


def test_a_share_without_spread_is_not_certain():
    found = pooled([1.0] * 5, *wilson([1.0] * 5, [32] * 5))
    assert found.value == found.high == 1.0
    assert 0.93 < found.low < 0.98


def test_two_streams_describe_themselves_and_three_speak_for_others():
    draws = np.random.default_rng(1).normal(0.05, 0.01, 2000)
    two = over_streams([0.051, 0.049], draws)
    assert not two.general
    assert 0.02 < two.low < two.high < 0.08
    assert over_streams([0.051, 0.049, 0.02]).general
    assert np.isnan(over_streams([0.05]).low)
    assert np.isnan(over_streams([]).value)


def test_streams_that_disagree_support_nothing():
    """+.051 in one stream and +.0002 in the other two: no claim about streams in general."""
    found = over_streams([0.051, 0.0002, 0.0002])
    assert found.low < 0 < found.high
    assert found.p_value > 0.3


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([]) == []


def test_a_family_is_adjusted_and_a_repetition_does_not_count():
    rows = [
        {"kind": "replay", "metric": "S", "p_value": p, "repeats": r}
        for p, r in ((0.02, False), (0.02, True), (0.03, False))
    ]
    other = [{"kind": "batch", "metric": "S", "p_value": 0.02, "repeats": False}]
    found = adjusted(pd.DataFrame(rows + other), ["kind", "metric"])
    assert found["p_holm"].tolist() == pytest.approx([0.04, 0.04, 0.04, 0.02])


def test_cells_with_the_same_scores_are_counted_once(tmp_path):
    """A buffer that never fills: the cells of two capacities are the same, and so is their comparison with none."""
    cells = write_cells(tmp_path, ("memit",), seeds=(1, 2, 3))
    plain = [
        (d, c | {"capacity": "0", "strategy": "none"}) for d, c in cells if c["batch"] == "32" and c["replay"] == "0"
    ]
    replayed = [
        (d, c | {"capacity": capacity, "strategy": "random"})
        for capacity in ("50", "100")
        for d, c in cells
        if c["batch"] == "32" and c["replay"] == "0.3"
    ]
    path = tmp_path / "replay_gain.csv"
    replay_gain_table(plain + replayed).to_csv(path, index=False)
    found = read_table(path)
    assert found.groupby("capacity")["repeats"].all().to_dict() == {100: True, 50: False}
    assert found["general"].all()
    [finding] = [f for f in replay.findings(Tables(replay_gain=found)) if f.key == "replay.settings"]
    assert finding.sentence.startswith("Of 1 different replay setting")


def test_a_difference_that_its_family_does_not_bear_out_is_none():
    row = {"value": 0.03, "ci_low": 0.01, "ci_high": 0.05, "n": 96, "p_holm": 0.2}
    found = difference_finding("a.b", row, "Replay", "S", "comparisons")
    assert not found.supported
    assert "p = 0.20 after Holm's correction" in found.sentence
    assert difference_finding("a.b", row | {"p_holm": 0.01}, "Replay", "S", "comparisons").supported


@pytest.mark.parametrize(
    ("seeds", "said"), [((1,), "this one seed alone"), ((1, 2), "these two seeds alone"), ((1, 2, 3), None)]
)
def test_few_seeds_speak_for_themselves(tmp_path, seeds, said):
    cells = write_cells(tmp_path, ("memit", "none"), seeds=seeds)
    found = findings_of(REPORT.topic("batch"), {"comparisons": comparisons(cells)})
    assert found
    for finding in found:
        assert (said or "alone") in finding.sentence if said else "alone" not in finding.sentence


def test_scores_that_are_all_alike_are_not_certain():
    cell = {"method": "memit", "batch": 32, "replay": 0.0, "rank": 0, "n": 32, "ES": 1.0, "ES_low": 1.0, "ES_high": 1.0}
    [row] = pooled_cells(pd.DataFrame([cell | {"seed": seed} for seed in (1, 2, 3)])).to_dict("records")
    assert (row["ES"], row["ES_high"]) == (1.0, 1.0)
    assert row["ES_low"] == pytest.approx(0.9615, abs=1e-3)


@pytest.mark.parametrize(
    ("seen", "shown"),
    [
        (range(1000, 5001, 1000), [1000, 2000, 5000]),
        ((1024, 2016, 3008, 4000, 5000), [1024, 2016, 5000]),  # batches of 32
        ((32, 64, 96), [32, 96]),
        (range(96, 961, 96), [192, 480, 960]),
        ((200,), [200]),
        ((), []),
    ],
)
def test_a_stream_is_told_at_its_end_and_at_most_twice_before(seen, shown):
    assert streams.lengths(list(seen)) == shown


def test_the_figure_has_the_panels_that_there_is_something_for(tmp_path):
    curves = [
        {
            "method": "memit",
            "batch": 32,
            "replay": 0.0,
            "rank": 0,
            "seed": s,
            "edits_seen": e,
            "metric": m,
            "value": 0.5,
            "n": 32,
        }
        for s in (1, 2, 3)
        for e in (32, 64)
        for m in ("composite_success", "neighborhood_accuracy")
    ]
    drawing = REPORT.figures["streams"][1]
    whole = pd.DataFrame(curves)
    assert len(drawing.drawn(whole).axes) == 2
    assert len(drawing.drawn(whole[whole["metric"] == "neighborhood_accuracy"]).axes) == 1


def test_the_table_ends_with_what_a_model_trained_on_the_new_facts_scores(tmp_path):
    """Told apart from the methods, and left out where a run trains none."""
    cells = write_cells(tmp_path, ("memit", "none"), seeds=(1, 2, 3))
    files = [tmp_path / "control.csv"]
    rng = np.random.default_rng(1)
    scores = [control_rows(rng, [f"f{k}" for k in range(48)]).assign(seed=s) for s in (1, 2, 3)]
    pd.concat(scores).to_csv(files[0], index=False)
    run = types.SimpleNamespace(inputs={"trained_control": files}, cells={"edit": cells}, name="default")
    made_of = {
        "ablation_matrix": cells_table(run),
        "curves": curves_table(cells),
        "costs": costs_table(cells),
        "portability": portability_table(run),
        "trained_model": streams.trained_table(run),
    }
    tables = Tables()
    for name, table in made_of.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        tables[name] = read_table(tmp_path / f"{name}.csv")
    made = REPORT.sheets["streams"][1].make(tables)
    assert made.frame["method"].tolist() == ["memit", "none", "trained"]
    last = made.frame.iloc[-1]
    assert last["S"] > 0.9
    assert last["ES_exact"] == pytest.approx(0.9 * last["ES"])
    assert last["perplexity"] == 5
    assert np.isnan(last["parameters"])
    assert "one model, trained from scratch on the new facts of all streams" in made.legend
    few = pd.read_csv(files[0])
    few.loc[few["metric"] == "SS", "n"] = 6
    few.to_csv(files[0], index=False)
    assert "SS" not in streams.trained_table(run)  # six cases a stream are too few to tell
    assert {"NS", "S"} <= set(streams.trained_table(run))
    few.loc[few["metric"] == "NS", "n"] = 6
    few.to_csv(files[0], index=False)
    assert not {"NS", "S"} & set(streams.trained_table(run))  # no mean of a part that is not told
    del tables["trained_model"]
    without = REPORT.sheets["streams"][1].make(tables)
    assert without.frame["method"].tolist() == ["memit", "none"]
    assert "from scratch" not in without.legend


def test_the_trained_model_does_not_move_the_headline_of_the_methods():
    """It stands at batch 1, as the unedited model does; the methods stay at the batch size that they share."""
    rows = [("memit", 1), ("memit", 32), ("emmet", 1), ("emmet", 32), ("rome", 1), ("none", 1)]
    frame = pd.DataFrame([{"method": m, "batch": b, "replay": 0.0, "rank": 0} for m, b in rows])
    trained = pd.DataFrame([{"method": "trained", "batch": 1, "replay": 0.0, "rank": 0}])
    alone, beside = (headline_settings(f).set_index("method")["batch"] for f in (frame, pd.concat([frame, trained])))
    assert beside.drop("trained").to_dict() == alone.to_dict()
    assert alone["memit"] == 32


def test_every_setting_of_replay_has_a_mark_of_its_own():
    rows = [
        {
            "method": "emmet",
            "batch": 32,
            "replay": 0.3,
            "capacity": c,
            "strategy": s,
            "metric": "S",
            "value": 0.01,
            "ci_low": 0.0,
            "ci_high": 0.02,
            "n": 96,
            "seeds": 3,
        }
        for c in (50, 200)
        for s in ("random", "priority", "target_loss")
    ]
    drawn = REPORT.figures["replay_gain"][1].drawn(pd.DataFrame(rows))
    lines = [container.lines[0] for axis in drawn.axes for container in axis.containers]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines}
    assert len(looks) == len(lines) == 6


def test_the_legend_of_long_streams_names_what_is_in_one_panel_alone():
    rows = [
        {
            "method": m,
            "batch": 32,
            "replay": r,
            "rank": 0,
            "seed": s,
            "edits_seen": e,
            "metric": k,
            "value": 0.5,
            "n": 32,
        }
        for m, r in (("emmet", 0.0), ("memit", 0.0), ("emmet", 0.3), ("alphaedit", 0.3))
        for s in (1, 2, 3)
        for e in (500, 1000)
        for k in ("retention_success", "neighborhood_success")
    ]
    drawn = REPORT.figures["large_scale_forgetting"][1].drawn(pd.DataFrame(rows))
    assert {text.get_text() for text in drawn.legends[0].get_texts()} == {"EMMET", "MEMIT", "AlphaEdit"}
