"""The methods along their streams: what is left of them after 1,000, 2,000, 5,000 edits, and what each costs.

One stream is looked at several times: after its first thousand edits it is what a stream of one thousand would have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, curves_over_edits
from editlab.analysis.edit.cells import EDITING, score_row
from editlab.analysis.edit.methods import by_score
from editlab.analysis.edit.portability import FEW, WRITTEN, by_probe
from editlab.analysis.edit.printing import METHOD
from editlab.analysis.edit.scores import (
    SCORES,
    SETTING,
    TRAINED,
    at,
    controls,
    final_success,
    headline_settings,
    named,
    over,
    pooled_curves,
)
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, beside, grouped, mean_table, pooled, records
from editlab.analysis.text.findings import Finding, leader_finding
from editlab.analysis.text.wording import counted, label

READ = ("ablation_matrix", "curves", "portability", "costs")
COMPOSITE, NEIGHBORS = "composite_success", "neighborhood_accuracy"
DRAWN = {COMPOSITE: "S of earlier edits", NEIGHBORS: "neighbours, exact answers"}
LOOKS_BACK = 3
ON_THE_WAY = {
    COMPOSITE: "S", "retention_success": "ES", "retention_accuracy": "ES exact", "paraphrase_success": "PS",
    "neighborhood_success": "NS", NEIGHBORS: "NS exact", "same_subject_success": "SS", "same_subject_accuracy": "SS exact",
}  # fmt: skip
PROBES = {"Subject_Aliasing": "alias", "Question_Form": "question", "multi_hop": "two hops", WRITTEN: "written"}


def lengths(edits: Sequence[int]) -> list[int]:
    """Of the numbers of edits after which a stream was looked at, the last and up to two earlier ones, each at most about half
    of the next (batches of 32 are looked at after 1,024 and 2,016 edits, not after 1,000 and 2,000)."""
    found: list[int] = []
    for seen in sorted(set(edits), reverse=True):
        if not found or 2 * seen <= 1.05 * found[-1]:
            found.append(seen)
    return sorted(found[:LOOKS_BACK])


def _along(curves: pd.DataFrame, metrics: Iterable[str] = DRAWN) -> pd.DataFrame:
    """Scores along the streams at the headline settings, seeds together, one row a (setting, edits_seen, metric)."""
    return pooled_curves(at(curves[curves["metric"].isin(metrics)], headline_settings(curves)))


@figure(
    "The methods along their streams",
    "curves",
    lambda rows: (
        "S of a sample of the earlier edits and, below, exact answers of neighbours whose own fact is unedited, with "
        f"{over(rows, 'bands')} at a snapshot."
    ),
    rows=_along,
    empty="No stream was looked at on its way.",
    cites=("streams.S_*",),
    level=6,
)
def streams(rows: pd.DataFrame) -> Drawing:
    """S over the edits seen, and exact answers of neighbours: one line a method."""
    parts = [(rows[rows["metric"] == metric], {"ylabel": name}) for metric, name in DRAWN.items()]
    return curves_over_edits([part for part in parts if len(part[0])], 4.6)


def trained_table(run: Run) -> pd.DataFrame:
    """What a model that was trained on the new facts of all streams scores, one row a seed, as in an ablation matrix.

    Where streams edit nearly all facts, hardly any fact of an edited subject is left that none of them edits: scores of fewer
    than :data:`FEW` cases are left out.
    """
    place = {"method": TRAINED, "batch": 1, "replay": 0.0, "rank": 0}
    tables = [pd.read_csv(file) for file in run.inputs["trained_control"]]
    rows = [
        {**place, "seed": seed, "when": "final", **score_row(_enough(part), "success"), "perplexity": _perplexity(part)}
        for table in tables
        for seed, part in table.groupby("seed")
    ]
    return pd.DataFrame(rows)


def _enough(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows that enough cases stand for; S only where they do for each of its parts."""
    few = set(metrics.loc[metrics["n"] < FEW, "metric"])
    return metrics[~metrics["metric"].isin(few | ({"S"} if few & set(SCORES) else set()))]


def _perplexity(metrics: pd.DataFrame) -> float:
    found = metrics.loc[metrics["metric"] == "perplexity", "value"]
    return float(found.iloc[0]) if len(found) else float("nan")


def _at_lengths(curves: pd.DataFrame) -> tuple[pd.DataFrame, list[Column]]:
    """S after each of :func:`lengths`, one row a setting, and the columns."""
    rows = _along(curves)
    rows = rows[rows["metric"] == COMPOSITE]
    frame, columns = rows[list(SETTING)].drop_duplicates(), []
    for seen in lengths(rows["edits_seen"].tolist()):
        name = f"S_{seen}"
        part = rows[rows["edits_seen"] == seen]
        renamed = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        frame = frame.merge(part[[*SETTING, *renamed]].rename(columns=renamed), on=list(SETTING), how="left")
        columns.append(Column(name, f"S, {seen:,}"))
    return frame, columns


def _exact(matrix: pd.DataFrame) -> pd.DataFrame:
    """Exact answers of the edits themselves, one row a setting."""

    def told(part: pd.DataFrame) -> dict[str, Any]:
        return beside({"ES_exact": pooled(part["ES_exact"], part["ES_exact_low"], part["ES_exact_high"])})

    return grouped(final_success(matrix), SETTING, told)


def _probed(table: pd.DataFrame) -> pd.DataFrame:
    """What follows from the edits and what is written of them, one row a setting: a column a kind of probe."""
    rows = by_probe(table)
    frame = rows[list(SETTING)].drop_duplicates()
    for kind in PROBES:
        renamed = {"value": kind, "low": f"{kind}_low", "high": f"{kind}_high"}
        part = rows.loc[rows["metric"] == kind, [*SETTING, *renamed]].rename(columns=renamed)
        frame = frame.merge(part, on=list(SETTING), how="left")
    return frame


def _spent(costs: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """CPU milliseconds an edit and the time to read the edited model over that of the unedited one, one row a setting."""
    edits = matrix.drop_duplicates([*SETTING, "seed"]).set_index([*SETTING, "seed"])["edits"]
    each = costs.set_index([*SETTING, "seed"])
    each = each.assign(cpu_ms=1000 * each[[f"cpu_{s}" for s in EDITING]].sum(axis=1) / edits)
    return mean_table(each.reset_index(), SETTING, ["cpu_ms", "inference"]).drop(columns="seeds")


@sheet("streams", "The methods along their streams", *READ, level=6, optional=("trained_model",))
def streams_sheet(tables: Tables) -> Printed:
    """S on the way, every score at the end, what follows, and what it costs; one row a method, the controls last."""
    matrix, curves, portability, costs = (tables[name] for name in READ)
    edits = counted(int(matrix["edits"].max()), "edit")
    matrix = pd.concat([matrix, tables["trained_model"]], ignore_index=True)
    frame = by_score(matrix)
    last = frame["method"].isin(controls(matrix)).astype(int) + 2 * (frame["method"] == TRAINED)
    frame = frame.iloc[last.argsort(kind="stable")]
    on_the_way, columns = _at_lengths(curves)
    cells = matrix.drop_duplicates([*SETTING, "seed"])
    means = mean_table(cells, SETTING, [name for name in ("perplexity", "parameters") if name in cells])
    means = means.drop(columns=["seeds", "parameters_low", "parameters_high"], errors="ignore")
    for part in (on_the_way, _probed(portability), means, _spent(costs, matrix)):
        frame = frame.merge(part, on=list(SETTING), how="left")
    legend = (
        f"S after so many edits of one stream (of a sample of them), then scores after {edits}, with {over(frame)}; exact: the "
        "answer itself; NS: neighbours whose own fact is unedited; SS: unedited facts of the edited subjects; alias, question, "
        "two hops: questions by an alias, in another form, over two hops; written: the answer that the model writes when it is "
        "asked for the fact. PPL: perplexity of held-out text; ms: CPU time an edit; stored: numbers that the edit keeps (of a "
        "reader of text: none but the text); reading: time to score a prompt over that of the unedited model. Times differ from "
        f"run to run.{of_trained(tables)}"
    )
    frame = frame.merge(_exact(matrix), on=list(SETTING), how="left")
    exact = [Column(f"{name}_exact", f"{name} exact") for name in ("ES", "NS", "SS")]
    shown = [METHOD, *columns, exact[0], Column("PS", "PS"), *exact[1:], *(Column(*item) for item in PROBES.items())]
    spent = [Column("perplexity", "PPL", "level", 1), Column("cpu_ms", "ms", "level", 0)]
    return Printed(
        frame, [*shown, *spent, Column("parameters", "stored", "count"), Column("inference", "reading")], legend
    )


@sheet("streams_on_the_way", "What streams of each length leave", "ablation_matrix", "curves", level=6)
def lengths_sheet(tables: Tables) -> Printed:
    """Every score of the curves after each of the :func:`lengths`, the best S first; one row a length and method."""
    curves, place = tables["curves"], ["edits_seen", *SETTING]
    long = _along(curves, ON_THE_WAY)
    long = long[long["n"] >= FEW]
    long = long[long["edits_seen"].isin(lengths(long["edits_seen"].tolist()))]

    def wide(part: pd.DataFrame) -> dict[str, Any]:
        return {"seeds": part["seeds"].max(), "n": part["n"].max()} | beside(
            {row["metric"]: Interval.of(row) for row in records(part)}
        )

    told = [name for name in ON_THE_WAY if (long["metric"] == name).any()]
    frame = grouped(long, place, wide, columns=[*place, "seeds", "n", *beside(dict.fromkeys(told, UNKNOWN))])
    text = at(curves[curves["metric"] == "perplexity"], headline_settings(curves)).rename(
        columns={"value": "perplexity"}
    )
    frame = frame.merge(mean_table(text, place, ["perplexity"]).drop(columns="seeds"), on=place, how="left")
    frame["control"] = frame["method"].isin(controls(tables["ablation_matrix"]))
    order = {"edits_seen": True, "control": True} | dict.fromkeys({COMPOSITE} & {*told}, False)
    frame = frame.sort_values([*order], ascending=[*order.values()], kind="stable").drop(columns="control")
    legend = (
        f"Scores after so many edits of one stream, of a sample of them, with {over(frame)}; exact: the answer itself in place "
        "of success; NS: neighbours whose own fact is unedited; SS: unedited facts of the edited subjects, which become fewer "
        f"and are not told below {FEW}; PPL: perplexity of held-out text. Controls come last at each length."
    )
    scores = [Column(metric, title) for metric, title in ON_THE_WAY.items()]
    seen = Column("edits_seen", "edits", "count")
    return Printed(frame, [seen, METHOD, *scores, Column("perplexity", "PPL", "level", 1)], legend)


def of_trained(tables: Tables) -> str:
    """What a legend says of the model that was trained on the new facts, where there is one."""
    if tables["trained_model"].empty:
        return ""
    return (
        f" {label(TRAINED).capitalize()}: one model, trained from scratch on the new facts of all streams in the wordings that "
        "are asked here, without what follows from them; its neighbours and a subject's other facts are those that no stream "
        "edits."
    )


def findings(tables: Tables) -> Iterator[Finding]:
    """Who is ahead after each of the lengths, controls apart."""
    curves, matrix = tables["curves"], tables["ablation_matrix"]
    if curves.empty or matrix.empty:
        return
    rows = _along(curves)
    rows = rows[(rows["metric"] == COMPOSITE) & ~rows["method"].isin(controls(matrix))]
    for seen in lengths(rows["edits_seen"].tolist()):
        ordered = rows[rows["edits_seen"] == seen].sort_values("value", ascending=False, kind="stable")
        what = f"S after {counted(seen, 'edit')}"
        yield leader_finding(f"streams.S_{seen}", named(ordered), what, int(ordered["n"].max()), "curves")


TOPIC = Topic(
    "Along the stream",
    about="the methods along their streams",
    tables=(Collected("trained_model", trained_table, inputs=("trained_control",)),),
    reads=READ,
    sentences=2,
)
