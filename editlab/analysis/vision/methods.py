"""Every way of mending errors on one scale: what it fixes, what it breaks, and what its controls do."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, legend, panels, sides
from editlab.analysis.draw.style import COLORS, DARK, GREY, MARKERS
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, beside, records
from editlab.analysis.statistics.streams import holm
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, level_with, listed, signed_with
from editlab.analysis.vision.cells import by_dataset, opening, shown
from editlab.analysis.vision.comparison import COMPARED, comparison, differences

FIXES = 0.5  # share of the edited errors from which a method counts as mending them


# ---- figures and printed tables ------------------------------------------------------------------------------------


def _legend(table: pd.DataFrame) -> str:
    seeds, cells = int(table["seeds"].max()), int(table["cells"].max())
    return (
        "Across: share of the edited errors that are fixed; up: change of test accuracy. Hollow marks are controls, which fix "
        "nothing on purpose (at 0 where none of their images was wrong). "
        f"95 % intervals of the change over {counted(seeds, 'seed')}, up to {counted(cells, 'cell')} a mark."
    )


@figure(
    "Fixed errors against test accuracy",
    "vision_comparison",
    _legend,
    rows=lambda table: table[table["level"].isin(["edit", "test"])],
    cites=("methods.gain", "methods.cost"),
    level=1,
)
def vision_fix_regression(table: pd.DataFrame) -> Drawing:
    """Fix rate of the edited errors against the change of test accuracy, one panel a data set."""
    names = list(dict.fromkeys(table["dataset"]))
    drawing, axes = panels(1.5 + 1.9 * len(names), len(names), xlabel="share of the edited errors fixed")
    looks = _looks(table)
    for axis, name in zip(axes, names, strict=True):
        part = table[table["dataset"] == name]
        wide = {level: rows.set_index("method") for level, rows in part.groupby("level")}
        for method, look in looks.items():
            x, y = wide["edit"].loc[[method]], wide["test"].loc[[method]]
            axis.errorbar(
                x["fix_rate"].fillna(0.0),
                y["accuracy_delta"],
                yerr=sides(y, "accuracy_delta"),
                linestyle="none",
                elinewidth=0.6,
                label=shown(method),
                **look,
            )
        axis.axhline(0, color=DARK, linewidth=0.7)
        axis.set(ylabel="change of test accuracy", title=name, xlim=(-0.05, 1.05))
    legend(drawing, axes[0], columns=2)
    return drawing


FAMILIES = ("alphaedit", "memit", "head_ewc", "head_closed_form", "head_ablation", "finetune_errors", "retrain")


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour for each kind of method and a mark for each method of it; controls are hollow and grey."""
    found: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for row in records(table.drop_duplicates("method")):
        family = "control" if row["control"] else str(row["kind"])
        number = counts[family] = counts.get(family, -1) + 1
        color = GREY if row["control"] else COLORS[FAMILIES.index(family) % len(COLORS)]
        face = "white" if row["control"] else color
        found[row["method"]] = {"marker": MARKERS[number % len(MARKERS)], "color": color, "markerfacecolor": face}
    return found


@sheet("vision_methods", "Methods", "vision_comparison", level=1)
def vision_methods(tables: Tables) -> Printed:
    """One row a method: fixed, stable, test."""
    table = tables["vision_comparison"]
    rows = []
    for (dataset, method), part in table.groupby(["dataset", "method"], sort=False):
        by = {r["level"]: r for r in records(part)}
        picks = {
            "fixed": ("edit", "fix_rate"),
            "rest": ("discovery_rest", "fix_rate"),
            "kept": ("projection", "stability"),
            "heldout": ("heldout", "stability"),
            "test": ("test", "accuracy_delta"),
        }
        numbers = {n: Interval.of(by[level], c) if level in by else UNKNOWN for n, (level, c) in picks.items()}
        found = by["test"]
        tested = f"{int(found['mcnemar_better'])}/{int(found['mcnemar_worse'])} of {int(found['cells'])}"
        rows.append({"dataset": dataset, "method": shown(str(method)), **beside(numbers), "mcnemar": tested})
    columns = [
        Column("dataset", "data", "text"), Column("method", "method", "text"), Column("fixed", "edited fixed"),
        Column("rest", "other errors fixed"), Column("kept", "preserved", "level", 3),
        Column("heldout", "held out", "level", 3),
        Column("test", "test accuracy", "difference", 3), Column("mcnemar", "better/worse", "text"),
    ]  # fmt: skip
    text = (
        "Share of the edited and of the other discovery errors that are fixed, share of right FT-Train images that stay right "
        "(those behind the statistics, and others), change of test accuracy, with 95 % intervals over seeds; last, in how many "
        "cells test became better or worse (McNemar, Holm over all "
        "cells)."
    )
    return Printed(pd.DataFrame(rows), columns, text)


# ---- findings ------------------------------------------------------------------------------------------------------


def findings(tables: Tables) -> list[Finding]:
    """What fixes the errors, at what price, whether anything is gained beyond the controls, and who does better."""
    if "vision_comparison" not in tables or tables["vision_comparison"].empty:
        return []
    table, found = tables["vision_comparison"], []
    for part, on, tail in by_dataset(table):
        if "vision_differences" in tables:
            pairs = tables["vision_differences"]
            pairs = pairs[pairs["dataset"] == part["dataset"].iloc[0]]
            found += _gain(pairs, part, on, tail) + _memit(pairs, part, on, tail)
        found += _costs(part, on, tail) + _reach(part, on, tail) + _fixes(part, on, tail)
    return found


def _gain(pairs: pd.DataFrame, part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """Test accuracy beyond every control and beyond zero: an intersection-union test over the controls (its p is the
    largest of theirs), with Holm's correction over the methods."""
    own = pairs[(pairs["level"] == "test") & pairs["control"]]
    test = part[part["level"] == "test"].set_index("method")
    if own.empty:
        return []
    largest = own["p"].where(own["value"] > 0, 1.0).groupby(own["method"], sort=False).max()
    beyond = [m for m, p in zip(largest.index, holm(largest.tolist()), strict=True) if p < 0.05]
    sure = [m for m in beyond if test.loc[m, "accuracy_delta_low"] > 0]
    best = str(test.loc[largest.index, "accuracy_delta"].idxmax())
    values = Interval.of(test.loc[best], "accuracy_delta")
    if sure:
        gains = "gains" if len(sure) == 1 else "gain"
        names = listed([shown(m) for m in sure])
        sentence = f"{names[:1].upper()}{names[1:]} {gains} test accuracy{on} beyond every control."
    else:
        sentence = (
            f"No method gains test accuracy{on} beyond its controls; the highest change is that of {shown(best)}, "
            f"{signed_with(*values)}."
        )
    chosen = test.loc[largest.index]
    better, worse, cells = (int(chosen[c].sum()) for c in ("mcnemar_better", "mcnemar_worse", "cells"))
    sentence += (
        f" By McNemar's test, {better} of {counted(cells, 'edited classifier')} are better on test and {worse} worse."
    )
    seeds = int(test["seeds"][best])
    return [Finding(f"methods.gain{tail}", sentence, *values, seeds, bool(sure), "vision_comparison")]


def _memit(pairs: pd.DataFrame, part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """Whether the null space is worth its name: MEMIT at the same site beside AlphaEdit."""
    own = pairs[(pairs["method"] == "memit") & (pairs["other"] == "alphaedit")].set_index("level")
    if own.empty:
        return []
    levels = {level: rows.set_index("method") for level, rows in part.groupby("level")}
    told = {
        level: [level_with(*Interval.of(levels[level].loc[m], column), digits) for m in ("memit", "alphaedit")]
        for (level, column), digits in zip(COMPARED[:2], (2, 3), strict=True)
    }
    change = {level: Interval.of(row) for level, row in own.iterrows()}
    (memit, alphaedit), kept = told["edit"], told["projection"]
    sentence = (
        f"At the same blocks{on}, MEMIT fixes {memit} of the edited errors and AlphaEdit {alphaedit}; of the images behind the "
        f"statistics {kept[0]} and {kept[1]} stay right. The change of test accuracy differs by {signed_with(*change['test'])}."
    )
    fixed = change["edit"]
    seeds = int(own["seeds"].max())
    return [Finding(f"methods.memit{tail}", sentence, *fixed, seeds, fixed.clear, "vision_differences")]


def _costs(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """What the methods that mend most of the errors cost on test."""
    edit = part[(part["level"] == "edit") & ~part["control"] & (part["fix_rate"] >= FIXES)]
    test = part[part["level"] == "test"].set_index("method")
    if edit.empty:
        return []
    hurt = [shown(m) for m in edit["method"] if test.loc[m, "accuracy_delta_high"] < 0]
    worst = str(test.loc[edit["method"], "accuracy_delta"].idxmin())
    values = Interval.of(test.loc[worst], "accuracy_delta")
    fixing = f"{counted(len(edit), 'method')} that fix{'es' if len(edit) == 1 else ''}"
    loss = f"the largest loss on test is that of {shown(worst)}, {signed_with(*values)}"
    lose = f"{listed(hurt) or 'none'} {'lose' if len(hurt) > 1 else 'loses'} test accuracy measurably."
    sentence = f"Of {fixing} at least half of the errors{on}, {loss}. {lose[:1].upper()}{lose[1:]}"
    seeds = int(test["seeds"][worst])
    return [Finding(f"methods.cost{tail}", sentence, *values, seeds, bool(hurt), "vision_comparison")]


def _reach(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """Whether edits reach errors that they were not given, beside what a training without errors changes anyway."""
    rest = part[(part["level"] == "discovery_rest") & part["fix_rate"].notna()].set_index("method")
    edits = rest[~rest["control"] & (rest["kind"] != "retrain")]
    if edits.empty:
        return []
    best = str(edits["fix_rate"].idxmax())
    values, images = Interval.of(rest.loc[best], "fix_rate"), int(rest["images"][best])
    sentence = f"Of the discovery errors{on} that were not edited, {shown(best)} fixes {level_with(*values)}, most of all edits"
    controls, clear = rest[rest["control"]], False
    if len(controls):
        control = str(controls["fix_rate"].idxmax())
        beyond = Interval.of(rest.loc[control], "fix_rate")
        sentence += f"; of the controls, {shown(control)}, {level_with(*beyond)}"
        clear = values.apart(beyond)
    return [Finding(f"methods.reach{tail}", f"{sentence}.", *values, images, clear, "vision_comparison")]


def _fixes(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """Which methods mend most of what they are given."""
    edit = part[(part["level"] == "edit") & ~part["control"]].dropna(subset=["fix_rate"])
    found = []
    for row in records(edit.sort_values("fix_rate", ascending=False, kind="stable")):
        values = Interval.of(row, "fix_rate")
        sentence = f"{opening(row['method'])} fixes {level_with(*values)} of the errors{on} that it is given."
        key, sure = f"methods.fix_{row['method']}{tail}", values.low > FIXES
        found.append(Finding(key, sentence, *values, int(row["images"]), sure, "vision_comparison"))
    return found


TOPIC = Topic(
    "Methods",
    about="mending errors",
    tables=(
        Collected(
            "vision_comparison", comparison, ("methods",), files=("comparative_evaluation.csv",), settings=("methods",)
        ),
        Collected(
            "vision_differences",
            differences,
            ("methods",),
            files=("comparative_evaluation.csv",),
            settings=("methods",),
        ),
    ),
    reads=("vision_comparison", "vision_differences"),
    sentences=5,
)
