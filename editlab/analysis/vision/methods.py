"""Every way of mending errors on one scale: what it fixes, what it breaks, and what its controls do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.draw.plots import legend, panels, sides
from editlab.analysis.draw.style import COLORS, DARK, GREY, MARKERS
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import mean_interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, level_with, listed, signed_with
from editlab.analysis.vision.cells import KAPPAS, SHARES, holm, is_control, of_seeds, read_cells, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

FIXES = 0.5  # share of the edited errors from which a method counts as mending them


def comparison(run: Run) -> pd.DataFrame:
    """One row a data set, method and level: means over seeds with intervals; how often a change was more than chance."""
    rows = read_cells(run)
    columns = [*SHARES, *(c for c in KAPPAS if c in rows)]
    table = of_seeds(rows, ["dataset", "method", "level"], columns)
    tests = []
    for (dataset, method, level), part in rows.groupby(["dataset", "method", "level"], sort=False):
        sure = [p < 0.05 for p in holm(part["mcnemar_p"].tolist())]
        better = sum(s and g > 0 for s, g in zip(sure, part["net_gain"], strict=True))
        tests.append(
            {"dataset": dataset, "method": method, "level": level, "mcnemar_better": better,
             "mcnemar_worse": sum(sure) - better, "mcnemar_p": float(part["mcnemar_p"].min()),
             "requested": int(part["requested"].max()), "used": float(part["used"].mean()),
             "clipped": bool(part["clipped"].any())}
        )  # fmt: skip
    table = table.merge(pd.DataFrame(tests), on=["dataset", "method", "level"])
    table.insert(2, "control", [is_control(run.settings["methods"][m]) for m in table["method"]])
    return table


def beyond_controls(run: Run) -> pd.DataFrame:
    """Test accuracy gained by a method minus that gained by each control, by seed; the interval is over seeds."""
    rows = read_cells(run)
    gains = rows[rows["level"] == "test"].groupby(["dataset", "method", "seed"])["accuracy_delta"].mean()
    recipes = run.settings["methods"]
    controls = [m for m in recipes if is_control(recipes[m])]
    found = []
    for dataset in dict.fromkeys(rows["dataset"]):
        for method in (m for m in recipes if m not in controls):
            for control in controls:
                differences = (gains[dataset, method] - gains[dataset, control]).to_numpy(float)
                value, low, high = mean_interval(differences)
                found.append({"dataset": dataset, "method": method, "control": control, "value": value,
                              "ci_low": low, "ci_high": high, "seeds": len(differences)})  # fmt: skip
    return pd.DataFrame(found)


# ---- figures and printed tables ------------------------------------------------------------------------------------


def _legend(table: pd.DataFrame) -> str:
    seeds, cells = int(table["seeds"].max()), int(table["cells"].max())
    return (
        "Across: share of the edited errors that are fixed; up: change of test accuracy. Hollow marks are controls, for which "
        f"nothing is fixed on purpose. 95 % intervals over {counted(seeds, 'seed')}, up to {counted(cells, 'cell')} a mark."
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
    drawing, axes = panels(len(names), 1, 2.6 * len(names))
    methods = list(dict.fromkeys(table["method"]))
    for axis, name in zip(axes, names, strict=True):
        part = table[table["dataset"] == name]
        wide = {level: rows.set_index("method") for level, rows in part.groupby("level")}
        for k, method in enumerate(methods):
            x, y = wide["edit"].loc[[method]], wide["test"].loc[[method]]
            control = bool(y["control"].iloc[0])
            axis.errorbar(
                x["fix_rate"].fillna(0.0),
                y["accuracy_delta"],
                yerr=sides(y, "accuracy_delta_low", "accuracy_delta_high", "accuracy_delta"),
                marker=MARKERS[k % len(MARKERS)],
                color=COLORS[k % len(COLORS)],
                markerfacecolor="white" if control else COLORS[k % len(COLORS)],
                linestyle="none",
                capsize=1.5,
                label=shown(method),
            )
        axis.axhline(0, color=DARK, linewidth=0.7)
        axis.axvline(FIXES, color=GREY, linewidth=0.4)
        axis.set(ylabel="change of test accuracy", title=name, xlim=(-0.05, 1.05))
    axes[-1].set_xlabel("share of the edited errors fixed")
    legend(drawing, axes[0], columns=2)
    return drawing


@sheet("vision_methods", "Methods", "vision_comparison", level=1)
def vision_methods(tables: Tables) -> Printed:
    """One row a method: fixed, stable, test."""
    table = tables["vision_comparison"]
    rows = []
    for (dataset, method), part in table.groupby(["dataset", "method"], sort=False):
        by = {r["level"]: r for r in records(part)}
        row: dict[str, Any] = {"dataset": dataset, "method": shown(str(method))}
        picks = {
            "fixed": ("edit", "fix_rate"),
            "rest": ("discovery_rest", "fix_rate"),
            "kept": ("projection", "stability"),
            "heldout": ("heldout", "stability"),
            "test": ("test", "accuracy_delta"),
        }
        for name, (level, column) in picks.items():
            for side in ("", "_low", "_high"):
                row[f"{name}{side}"] = by.get(level, {}).get(f"{column}{side}", float("nan"))
        found = by["test"]
        row["mcnemar"] = f"{int(found['mcnemar_better'])}/{int(found['mcnemar_worse'])} of {int(found['cells'])}"
        rows.append(row)
    columns = [
        Column("dataset", "data", "text"), Column("method", "method", "text"), Column("fixed", "edited fixed"),
        Column("rest", "other errors fixed"), Column("kept", "preserved"), Column("heldout", "held out"),
        Column("test", "test accuracy", "difference", 3), Column("mcnemar", "better/worse", "text"),
    ]  # fmt: skip
    text = (
        "Share of the edited and of the other discovery errors that are fixed, share of right FT-Train images that stay right "
        "(those behind the statistics, and others), change of test accuracy, with 95 % intervals over seeds; last, in how many "
        "cells test became better or worse (McNemar, Holm)."
    )
    return Printed(pd.DataFrame(rows), columns, text, "vision_comparison")


# ---- findings ------------------------------------------------------------------------------------------------------


def findings(tables: Tables) -> list[Finding]:
    """What fixes the errors, at what price, and whether anything is gained beyond the controls."""
    if "vision_comparison" not in tables or tables["vision_comparison"].empty:
        return []
    table, found = tables["vision_comparison"], []
    several = table["dataset"].nunique() > 1
    for dataset, part in table.groupby("dataset", sort=False):
        on = f" on {dataset}" if several else ""
        tail = f".{dataset}" if several else ""
        if "vision_beyond_controls" in tables:
            found += _gain(tables["vision_beyond_controls"], part, str(dataset), on, tail)
        found += _fixes(part, on, tail)
        found += _costs(part, on, tail)
    return found


def _gain(differences: pd.DataFrame, part: pd.DataFrame, dataset: str, on: str, tail: str) -> list[Finding]:
    """Test accuracy beyond every control and beyond zero: an intersection-union test, so that no correction is due."""
    own = differences[differences["dataset"] == dataset]
    test = part[part["level"] == "test"].set_index("method")
    if own.empty:
        return []
    least = own.loc[own.groupby("method")["ci_low"].idxmin()].set_index("method")
    sure = [m for m in least.index if least.loc[m, "ci_low"] > 0 and test.loc[m, "accuracy_delta_low"] > 0]
    best = test.loc[least.index, "accuracy_delta"].idxmax()
    row = test.loc[best]
    change, low, high = (float(row[f"accuracy_delta{end}"]) for end in ("", "_low", "_high"))
    number = signed_with(change, low, high)
    if sure:
        sentence = f"{listed([shown(m) for m in sure])} gains test accuracy{on} beyond every control."
    else:
        highest = f"the highest change is that of {shown(str(best))}, {number}"
        sentence = f"No method gains test accuracy{on} beyond its controls; {highest}."
    values = (float(row["accuracy_delta"]), float(row["accuracy_delta_low"]), float(row["accuracy_delta_high"]))
    return [Finding(f"methods.gain{tail}", sentence, *values, int(row["seeds"]), bool(sure), "vision_comparison")]


def _fixes(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """Which methods mend most of what they are given."""
    edit = part[(part["level"] == "edit") & ~part["control"]].dropna(subset=["fix_rate"])
    found = []
    for row in records(edit.sort_values("fix_rate", ascending=False, kind="stable")):
        low = float(row["fix_rate_low"])
        values = (float(row["fix_rate"]), low, float(row["fix_rate_high"]))
        sentence = f"{shown(row['method'])} fixes {level_with(*values)} of the errors that it is given{on}."
        found.append(
            Finding(
                f"methods.fix_{row['method']}{tail}",
                sentence,
                *values,
                int(row["images"]),
                low > FIXES,
                "vision_comparison",
            )
        )
    return found


def _costs(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """What the methods that mend most of the errors cost on test."""
    edit = part[(part["level"] == "edit") & ~part["control"] & (part["fix_rate"] >= FIXES)]
    test = part[part["level"] == "test"].set_index("method")
    hurt = [m for m in edit["method"] if test.loc[m, "accuracy_delta_high"] < 0]
    if edit.empty:
        return []
    worst = test.loc[edit["method"], "accuracy_delta"].idxmin()
    row = test.loc[worst]
    values = (float(row["accuracy_delta"]), float(row["accuracy_delta_low"]), float(row["accuracy_delta_high"]))
    measured = listed([shown(m) for m in hurt]) if hurt else "None of them"
    fixing = f"{counted(len(edit), 'method')} that fix{'es' if len(edit) == 1 else ''}"
    loss = f"the largest loss on test is that of {shown(str(worst))}, {signed_with(*values)}"
    sentence = f"Of {fixing} at least half of the errors{on}, {loss}. {measured} loses test accuracy measurably."
    return [Finding(f"methods.cost{tail}", sentence, *values, int(row["seeds"]), bool(hurt), "vision_comparison")]


TOPIC = Topic(
    name="methods",
    title="Methods",
    about="mending errors",
    tables=(
        Collected(
            "vision_comparison", comparison, ("methods",), files=("comparative_evaluation.csv",), settings=("methods",)
        ),
        Collected(
            "vision_beyond_controls",
            beyond_controls,
            ("methods",),
            files=("comparative_evaluation.csv",),
            settings=("methods",),
        ),
    ),
    figures=(vision_fix_regression,),
    sheets=(vision_methods,),
    reads=("vision_comparison", "vision_beyond_controls"),
    findings=findings,
    sentences=5,
)
