"""What follows from an edit: aliases, other wordings, inverse relations, two hops; and the edited facts written freely.

Every method stands beside two controls: the unedited model, and a model that was trained on the new facts
(:mod:`editlab.editing.control`). Where the trained one fails too, the probe measures the model and not the edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import panels, sides
from editlab.analysis.draw.style import DARK
from editlab.analysis.edit.printing import BATCH, METHOD
from editlab.analysis.edit.scores import CONTROLS, SETTING, headline, over, with_batch
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import pooled, wilson
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, label, level_with, listed
from editlab.files.artifacts import read_verified

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TRAINED, UNEDITED = "trained", "none"
LAST = ("random", "shuffled", UNEDITED, TRAINED)
"""Controls in the order in which they follow the methods."""

OUTSIDE = {*CONTROLS, TRAINED}
KINDS = {
    "Subject_Aliasing": "alias",
    "Question_Form": "question",
    "Logical_Generalization": "inverse",
    "multi_hop": "two hops",
}
"""What follows from an edit, and how it is called in print."""

KEPT, WRITTEN = "Relation_Specificity", "generation"
GUESS = "{}_guess"  # the trained control's answers against those of another case of the relation
NAMES = {**KINDS, KEPT: "same subject", WRITTEN: "written"}
MEASURES = ("accuracy", "exact", "contained", "gap")
MEASURE = "exact"
FEW = 20
"""Cases over all seeds below which a share is not told: even of none or all right, Wilson's interval is wider than .16."""
COLUMNS = [*SETTING, "seed", "metric", "protocol", "value", "n", "ci_low", "ci_high"]
SAID = {
    "Subject_Aliasing": "questions by an alias of the subject",
    "Question_Form": "questions in another form",
    "Logical_Generalization": "inverse questions",
    "multi_hop": "questions over two hops",
}


def portability_table(run: Run) -> pd.DataFrame:
    """Scores of all probes, long: one row a (cell, metric, measure); the trained control has the method ``trained``."""
    parts = [pd.read_csv(read_verified(Path(d) / "metrics.csv")).assign(**cell) for d, cell in run.cells["edit"]]
    place: dict[str, Any] = {"method": TRAINED, "batch": "1", "replay": "0", "rank": "0"}
    parts += [pd.read_csv(file).assign(**place) for file in run.inputs.get("trained_control", ())]
    table = pd.concat(parts, ignore_index=True)
    final = table["when"].eq("final") | table["when"].isna() if "when" in table else np.ones(len(table), dtype=bool)
    kept = table[final & table["protocol"].isin(MEASURES) & ~table["metric"].isin(("ES", "PS", "NS", "S"))]
    return kept.reindex(columns=COLUMNS).reset_index(drop=True)


def by_probe(table: pd.DataFrame, measure: str = MEASURE) -> pd.DataFrame:
    """One row a (setting, kind of probe) at the headline settings, seeds together.

    Returns:
        columns of the setting, metric, value, low, high, seeds, n (probed cases of all seeds). Intervals are over cases and
        seeds, and at least as wide as Wilson's: none of few cases right is not surely none. Fewer than :data:`FEW` cases
        have NaN for a value.
    """
    rows, wanted = [], [*NAMES, *(GUESS.format(kind) for kind in KINDS)]
    chosen = table[table["metric"].isin(wanted) & (table["protocol"] == measure) & (table["n"] > 0)]
    for key, part in headline(chosen).groupby([*SETTING, "metric"], sort=False):
        value, low, high = pooled(part["value"], part["ci_low"], part["ci_high"])
        least, most = wilson(value, int(part["n"].sum()))
        found = {"value": value, "low": float(np.fmin(low, least)), "high": float(np.fmax(high, most))}
        basis = _basis(part)
        told = found if basis["n"] >= FEW else dict.fromkeys(found, float("nan"))
        rows.append({**dict(zip([*SETTING, "metric"], key, strict=True)), **told} | basis)
    return pd.DataFrame(rows, columns=[*SETTING, "metric", "value", "low", "high", "seeds", "n"])


def told_probes(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`by_probe` without what too few cases stand for."""
    return by_probe(table).dropna(subset="value")


def _basis(part: pd.DataFrame) -> dict[str, int]:
    return {"seeds": part["seed"].nunique(), "n": int(part["n"].sum())}


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """One row a method, the controls last: a column a kind of probe with its interval, and the gap."""
    rows: list[dict[str, Any]] = []
    gaps = table[(table["metric"] == WRITTEN) & (table["protocol"] == "gap")]
    for key, part in by_probe(table).groupby(list(SETTING), sort=False):
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for found in records(part):
            name = found["metric"]
            row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            row[f"{name}_n"] = found["n"]
        gap = gaps[(gaps[list(SETTING)] == list(key)).all(axis=1)]
        bounds = pooled(gap["value"], gap["ci_low"], gap["ci_high"], bounds=(-1.0, 1.0))
        row |= dict(zip(("gap", "gap_low", "gap_high"), bounds, strict=True))
        rows.append(row | {"seeds": int(part["seeds"].max()), "n": int(part["n"].max())})
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    order = {name: place for place, name in enumerate(LAST, start=1)}
    return frame.sort_values("method", key=lambda names: names.map(order).fillna(0), kind="stable", ignore_index=True)


def _stands_on(frame: pd.DataFrame) -> str:
    cases, seeds = (int(frame[name].max()) if len(frame) else 0 for name in ("n", "seeds"))
    return f"n = {counted(cases, 'case')} of a kind at most, {counted(seeds, 'seed')}"


@figure(
    "What follows from an edit",
    "portability",
    lambda rows: (
        f"Share of probes answered by exact match of the written answer, with {over(rows)}, at least as "
        f"wide as Wilson's; a probe counts where the unedited model knows what it stands on."
    ),
    rows=told_probes,
    empty="No probe was scored.",
    cites=("portability.control_*", "portability.best_*"),
    level=5,
)
def portability_by_method(rows: pd.DataFrame) -> Drawing:
    """One row a method, one mark a kind of probe; the controls are the last rows."""
    order = _in_order(rows)
    figure, (axis,) = panels(1, 1, 0.7 + 0.23 * len(order))
    kinds = [name for name in KINDS if name in set(rows["metric"])]
    for place, (name, color, marker) in enumerate(
        zip(kinds, ("#0072B2", "#009E73", "#D55E00", "#000000"), "o^sD", strict=False)
    ):
        part = rows[rows["metric"] == name].set_index("method")
        part = part.loc[[method for method in order if method in part.index]]
        y = np.array([order.index(method) for method in part.index]) + 0.2 * (place - (len(kinds) - 1) / 2)
        look: dict[str, Any] = {"linestyle": "none", "markersize": 3.2, "elinewidth": 0.9, "capsize": 1.3}
        axis.errorbar(part["value"], y, xerr=sides(part), color=color, marker=marker, label=NAMES[name], **look)
    places = {str(row["method"]): row for row in records(rows)}
    axis.set_yticks(range(len(order)), [_shown(places[method]) for method in order])
    axis.axhline(len([m for m in order if m not in LAST]) - 0.5, color=DARK, linewidth=0.7)
    axis.set(xlim=(-0.03, 1.03), ylim=(len(order) - 0.5, -0.5), xlabel="share of probes answered rightly")
    axis.grid(axis="y", visible=False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _in_order(rows: pd.DataFrame) -> list[str]:
    """Methods in the table's order, the controls last."""
    names = list(dict.fromkeys(rows["method"]))
    return [m for m in names if m not in LAST] + [m for m in LAST if m in names]


def _shown(row: Mapping[str, Any]) -> str:
    return "trained on it" if row["method"] == TRAINED else with_batch(row)


@sheet("portability", "What follows from an edit", "portability", level=3)
def portability_sheet(tables: Tables) -> Printed:
    """All methods, the unedited model and the trained one: a column a kind of probe."""
    frame = side_by_side(tables["portability"])
    columns = [METHOD, BATCH, *(Column(name, title) for name, title in NAMES.items()), Column("gap", "gap")]
    legend = (
        f"Share of probes answered after the stream, by exact match of what the model writes, with {over(frame)}, "
        f"at least as wide as Wilson's. Alias, question, inverse and two hops ask for what follows "
        "from the new fact; same subject: its other facts, which must stay; written: the new fact itself; gap: accuracy under "
        "teacher forcing less exact match. A probe counts where the unedited model knows what it stands on. Controls stand "
        "last: noise, dealt-out targets, the unedited model, and one trained from scratch on the new facts, without what "
        f"follows from them. {_columns_stand_on(frame)}"
    )
    return Printed(frame, columns, legend, "portability")


def _columns_stand_on(frame: pd.DataFrame) -> str:
    """How many cases each column has (its controls may have fewer), and which ones are too few for a number."""
    counts = {title: int(frame[f"{name}_n"].max()) for name, title in NAMES.items() if f"{name}_n" in frame}
    told = [f"{title} {count:,}{'' if count >= FEW else ' (too few to tell)'}" for title, count in counts.items()]
    return f"Cases that a row stands on, at most: {', '.join(told)}; no number where there are fewer than {FEW}."


# ---- findings ----------------------------------------------------------------------------------------------------


def findings(tables: Tables) -> list[Finding]:
    """What the controls answer, which method carries over best, what happens to the subject's other facts, and the gap."""
    table = tables.get("portability", pd.DataFrame(columns=COLUMNS))
    rows = by_probe(table)
    few = [_few(table, rows, kind) for kind in KINDS]
    rows = rows.dropna(subset="value")
    found = [f for kind in KINDS for f in (_control(rows, kind), _best(rows, kind)) if f is not None]
    found += [finding for finding in few if finding is not None]
    return [*found, *_kept(rows), *_gap(side_by_side(table))]


def _one(rows: pd.DataFrame, method: str, metric: str) -> dict[str, Any] | None:
    found = records(rows[(rows["method"] == method) & (rows["metric"] == metric)])
    return found[0] if found else None


def _numbers(row: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(row["value"]), float(row["low"]), float(row["high"])


def _control(rows: pd.DataFrame, kind: str) -> Finding | None:
    """What a model that was trained on the new facts answers: the most that can be asked of an edit."""
    trained, unedited = _one(rows, TRAINED, kind), _one(rows, UNEDITED, kind)
    if trained is None:
        return None
    value, low, high = _numbers(trained)
    guess = _one(rows, TRAINED, GUESS.format(kind))
    rivals = [("the unedited model", unedited), ("answers of other cases in place of the right ones", guess)]
    beside = [f"{name}: {level_with(*_numbers(row))}" for name, row in rivals if row is not None]
    base = f" ({'; '.join(beside)})" if beside else ""
    answers = all(low > float(row["high"]) for _, row in rivals if row is not None)
    verdict = (
        "a model of this kind can carry a new fact over to them"
        if answers
        else "not measurably more than these, so that they tell nothing against an edit of a model of this kind"
    )
    sentence = (
        f"Of {SAID[kind]}, a model trained on the new facts answers {level_with(value, low, high)}{base}: {verdict}."
    )
    return Finding(f"portability.control_{kind}", sentence, value, low, high, int(trained["n"]), answers, "portability")


def _few(table: pd.DataFrame, rows: pd.DataFrame, kind: str) -> Finding | None:
    """Of how many probes the unedited model knows what they stand on, where these are too few to tell anything."""
    chosen = rows[(rows["metric"] == kind) & ~rows["method"].isin(OUTSIDE)]
    if chosen.empty or chosen["value"].notna().any():
        return None
    method, count = chosen["method"].iloc[0], int(chosen["n"].max())
    place = headline(table[(table["metric"] == f"{kind}_executed") & (table["protocol"] == MEASURE)])
    asked = int(place.loc[place["method"] == method, "n"].sum())
    known = f"{count} of {asked}" if asked else f"{count}"
    sentence = (
        f"Of {SAID[kind]}, the unedited model knows what {known} stand on: too few for a share "
        f"(at least {FEW} are needed), so that nothing is said of them."
    )
    nan = float("nan")
    return Finding(f"portability.few_{kind}", sentence, float(count), nan, nan, count, False, "portability")


def _best(rows: pd.DataFrame, kind: str) -> Finding | None:
    """The method that answers the most of a kind, beside the trained control."""
    inside = rows[(rows["metric"] == kind) & ~rows["method"].isin(OUTSIDE)]
    if inside.empty:
        return None
    ordered = records(inside.sort_values("value", ascending=False, kind="stable"))
    top, name = ordered[0], label(str(ordered[0]["method"]))
    value, low, high = _numbers(top)
    alike = [label(str(row["method"])) for row in ordered[1:] if not low > float(row["high"])]
    if value == 0:
        sentence = f"No method answers any of the {SAID[kind]} ({name}: {level_with(value, low, high)})."
        return Finding(f"portability.best_{kind}", sentence, value, low, high, int(top["n"]), False, "portability")
    told = f"; its interval overlaps with {listed([f'that of {n}' for n in alike[:3]])}" if alike else ""
    more = f" and {counted(len(alike) - 3, 'other')}" if len(alike) > 3 else ""
    sentence = f"{name} answers the most {SAID[kind]}, {level_with(value, low, high)}{told}{more}."
    sure = not alike and len(ordered) > 1
    return Finding(f"portability.best_{kind}", sentence, value, low, high, int(top["n"]), sure, "portability")


def _kept(rows: pd.DataFrame) -> list[Finding]:
    """How many of the unedited facts of an edited subject are left."""
    inside = rows[(rows["metric"] == KEPT) & ~rows["method"].isin(OUTSIDE)]
    if inside.empty:
        return []
    ordered = records(inside.sort_values("value", ascending=False, kind="stable"))
    best, worst = ordered[0], ordered[-1]
    value, low, high = _numbers(best)
    names = [label(str(row["method"])) for row in (best, worst)]
    trained = _one(rows, TRAINED, KEPT)
    beside = f"; the model trained on the new facts keeps {level_with(*_numbers(trained))}" if trained else ""
    sentence = (
        f"Of the other facts of an edited subject, {names[0]} leaves {level_with(value, low, high)} as they were, the most of "
        f"{counted(len(ordered), 'method')}, and {names[1]} the fewest, {level_with(*_numbers(worst))}{beside}."
    )
    apart = low > float(worst["high"])
    return [Finding("portability.same_subject", sentence, value, low, high, int(best["n"]), apart, "portability")]


def _gap(frame: pd.DataFrame) -> list[Finding]:
    """How far teacher forcing flatters the edited fact itself."""
    inside = frame[~frame["method"].isin(OUTSIDE)] if len(frame) else frame
    if inside.empty or inside["gap"].isna().all():
        return []
    row = records(inside.sort_values("gap", ascending=False, kind="stable"))[0]
    value, low, high = (float(row[name]) for name in ("gap", "gap_low", "gap_high"))
    opening = (
        "Teacher forcing flatters {} the most"
        if low > 0
        else "Teacher forcing flatters no method measurably ({} the most)"
    )
    sentence = (
        f"{opening.format(label(str(row['method'])))}: its accuracy on the new facts is "
        f"{level_with(value, low, high)} above the exact match of what the model writes."
    )
    return [Finding("portability.gap", sentence, value, low, high, int(row["n"]), low > 0, "portability")]


TOPIC = Topic(
    name="portability",
    title="What follows from an edit",
    about="what follows from an edit",
    tables=(
        Collected("portability", portability_table, ("edit",), files=("metrics.csv",), optional=("trained_control",)),
    ),
    figures=(portability_by_method,),
    sheets=(portability_sheet,),
    reads=("portability",),
    findings=findings,
    sentences=4,
)
