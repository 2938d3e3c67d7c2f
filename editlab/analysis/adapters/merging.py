"""Merging: which rule joins retrieved adapters with the least interference, and what a shared A_0 has to do with it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.adapters.scores import basis, difference, joined, means
from editlab.analysis.draw.plots import Drawing, legend, panels, sides
from editlab.analysis.draw.style import COLORS, MARKERS
from editlab.analysis.paper.tabular import Printed, columns_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Interval
from editlab.analysis.text.findings import Finding, direction, size
from editlab.analysis.text.wording import listed, signed_with

BY = ["pool", "rule", "space", "rank"]
NAMES = {
    "linear": "mean", "magnitude_prune": "pruned mean", "ties": "TIES", "ties_shared": "TIES, shared threshold",
    "dare_linear": "DARE", "dare_ties": "DARE and TIES", "dare_shared": "DARE, shared mask",
}  # fmt: skip

SAME = "; pools are to be compared on the same seeds"


def merge_table(run: Run) -> pd.DataFrame:
    """Scores of every rule on every held-out task."""
    return joined(run, "merges")


def _side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """The pools on equal terms: where one of them has fewer seeds, the other's rows of those seeds come again as a pool."""
    seeds = {str(pool): set(part["seed"]) for pool, part in table.groupby("pool", sort=False)}
    both = set.intersection(*seeds.values())
    again = [
        table[(table["pool"] == pool) & table["seed"].isin(both)].assign(pool=f"{pool}, same {_seeds(both)}")
        for pool, own in seeds.items()
        if both and own != both
    ]
    return pd.concat([table, *again], ignore_index=True)


def _seeds(seeds: set[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in sorted(seeds)])}"


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    cut = frame["rank"].map(lambda r: "" if r == 0 else f", rank {r}")
    shown = frame["rule"].map(lambda r: NAMES.get(r, r)) + " of " + frame["space"] + "s" + cut
    return frame.assign(name=shown)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return _named(means(_side_by_side(table), BY, ["letters", "cosine_to_sum"])).assign(tasks=basis(table))


@figure(
    "Interference of merged adapters",
    "merge",
    lambda rows: (
        "Ten adapters retrieved by text and merged with equal weights: letters right on held-out tasks "
        f"({rows['tasks'].iloc[0]}), for adapters that start from one shared A and for adapters that each have their own"
        f"{SAME if len(set(rows['seeds'])) > 1 else ''}."
    ),
    rows=_shown,
    cites=("merging.*",),
    level=3,
)
def merge_interference(rows: pd.DataFrame) -> Drawing:
    """Letters by rule, a mark a pool."""
    names = list(dict.fromkeys(rows["name"]))
    figure, (axis,) = panels(0.7 + 0.17 * len(names))
    for place, (pool, part) in enumerate(rows.groupby("pool", sort=False)):
        ends = sides(part, "letters")
        look: dict[str, Any] = {"fmt": MARKERS[place], "color": COLORS[place], "elinewidth": 0.8, "capsize": 1.5}
        y = [names.index(n) + 0.16 * (2 * place - 1) for n in part["name"]]
        axis.errorbar(part["letters"], y, xerr=ends, label=str(pool), **look)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("letters right")
    legend(figure, axis)
    return figure


@sheet("merging", "Merged adapters", "merge", level=5)
def merging_sheet(tables: Tables) -> Printed:
    """Every rule: scores, likeness to the exact sum, size."""
    frame = _named(means(_side_by_side(tables["merge"]), BY, ["exact", "letters", "cosine_to_sum", "norm_to_sum"]))
    for column in ("cosine_to_sum", "norm_to_sum"):
        frame = frame.drop(columns=[f"{column}_low", f"{column}_high"])
    heads = {"letters": "letters", "exact": "exact", "cosine_to_sum": "cosine to the exact mean", "norm_to_sum": "norm"}
    columns = (
        columns_of({"pool": "pool", "name": "rule"}, "text")
        + columns_of(heads)
        + columns_of({"seeds": "seeds"}, "count")
    )
    stands = basis(tables["merge"])
    told = f"Ten adapters merged, chosen by text ({stands}). Cosine and norm: against the exact mean of the products"
    told += f"{SAME if len(set(frame['seeds'])) > 1 else ''}."
    return Printed(frame, columns, told)


def findings(tables: Tables) -> list[Finding]:
    """Factor averages against product averages in each pool, and TIES and DARE against the mean."""
    table = tables["merge"]
    if not len(table):
        return []
    found = []
    for pool, part in table.groupby("pool", sort=False):
        mean = _rows(part, "linear", "product", cut=False)
        key = "own" if str(pool).startswith("own") else "shared"
        factors = _rows(part, "linear", "factor")
        cosine = float(factors["cosine_to_sum"].mean())
        subject = f"With {pool}, averaging factors in place of products (cosine {cosine:.2f} to the exact mean)"
        found.append(_finding(f"merging.factors_{key}", factors, mean, subject))
        for rule in ("ties", "dare_linear"):
            subject = f"With {pool}, {NAMES[rule]} on products"
            found.append(_finding(f"merging.{rule}_{key}", _rows(part, rule, "product"), mean, subject))
    return found


def _rows(part: pd.DataFrame, rule: str, space: str, cut: bool = True) -> pd.DataFrame:
    own = part[(part["rule"] == rule) & (part["space"] == space)]
    return own[own["rank"] > 0] if cut else own[own["rank"] == 0]


def _finding(key: str, one: pd.DataFrame, other: pd.DataFrame, subject: str) -> Finding:
    row = difference(one, other, "letters")
    numbers = Interval.of(row)
    told = f"changes letters against the exact mean by {signed_with(*numbers)}, which is no measurable difference"
    if verb := direction(numbers.low, numbers.high, "gains", "loses"):
        told = f"{verb} {size(*numbers)} letters against the exact mean"
    return Finding(key, f"{subject} {told}.", *numbers, int(row["n"]), numbers.clear, "merge")


TOPIC = Topic(
    "Merging",
    about="merged adapters",
    tables=(Collected("merge", merge_table, inputs=("merges",)),),
    reads=("merge",),
)
