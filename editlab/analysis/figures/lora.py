"""Low-rank storage: score against rank and against bytes; and what retraining brings back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.intervals import pooled
from editlab.analysis.retraining import INTERVAL, restored_shares
from editlab.analysis.rows import largest, records
from editlab.analysis.style import error_bars, legend, marks, panels, says, share_axis, styled
from editlab.analysis.wording import counted, label, level_with, percent, stands_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_CELLS = "No finished cell to compare."


def _ranks(table: pd.DataFrame) -> pd.DataFrame:
    """S by method and rank, seeds together, with the bytes stored: value, low, high, bytes, n, seeds."""
    rows: list[dict[str, Any]] = []
    plain = table[table["replay"] == table["replay"].min()] if len(table) else table
    for (method, rank), part in plain.groupby(["method", "rank"], sort=False):
        value, low, high = pooled(part["S"], part["S_low"], part["S_high"])
        place = {"method": method, "rank": rank, "bytes": float(part["bytes"].mean())}
        rows.append(place | {"value": value, "low": low, "high": high, "n": int(part["n"].sum()), "seeds": len(part)})
    return pd.DataFrame(rows)


@styled
def rank_tradeoff(table: pd.DataFrame) -> Figure:
    """S over the rank, raw edits as a band; and S over the bytes that the edit needs."""
    rows = _ranks(table)
    if rows.empty:
        return says(NO_CELLS)
    figure, axes = panels(1, 2, 2.4, sharey=True)
    looks = marks(rows["method"])
    ranked = rows[rows["rank"] > 0]
    for method, part in rows.groupby("method", sort=False):
        ordered, mark, name = part.sort_values("rank"), looks[str(method)], label(str(method))
        if (part["rank"] > 0).any():
            error_bars(axes[0], ordered["rank"], ordered, mark, name)
        else:
            raw = ordered.iloc[0]
            axes[0].axhline(raw["value"], color=mark.color, linestyle=mark.line, linewidth=1.0)
            axes[0].axhspan(raw["low"], raw["high"], color=mark.color, alpha=0.12, linewidth=0)
        error_bars(axes[1], ordered["bytes"] / 1024, ordered, mark, name)
    if len(ranked):
        ranks = sorted(ranked["rank"].unique())
        axes[0].set_xscale("log", base=2)
        axes[0].set_xticks(ranks, [str(r) for r in ranks])
        axes[0].set_xlim(ranks[0] / 1.5, ranks[-1] * 1.5)
    axes[1].set_xscale("log", base=2)
    sizes = sorted({round(b / 1024, 1) for b in rows["bytes"]})
    sizes = sizes if len(sizes) <= 4 else [sizes[0], sizes[len(sizes) // 3], sizes[2 * len(sizes) // 3], sizes[-1]]
    axes[1].set_xticks(sizes, [f"{b:g}" for b in sizes])
    for axis in axes:
        axis.minorticks_off()
    axes[0].set(xlabel="rank", ylabel="S at the end")
    axes[1].set(xlabel="KiB stored")
    share_axis(axes[0], float(rows["low"].min()))
    legend(figure, axes[1], columns=2)
    return figure


def rank_tradeoff_caption(table: pd.DataFrame) -> str:
    """The smallest edit whose interval reaches the raw edit's value."""
    rows = _ranks(table)
    if rows.empty:
        return NO_CELLS
    raw = rows[rows["rank"] == 0]
    ranked = rows[rows["rank"] > 0].sort_values("bytes", kind="stable")
    basis = stands_on(int(rows["n"].max()), int(rows["seeds"].max()))
    scope = f"S at the end of the stream with 95 % intervals over cases and seeds ({basis})."
    if raw.empty or ranked.empty:
        return scope
    whole = raw.iloc[0]
    name = f"the raw {label(whole['method'])} edit ({level_with(whole['value'], whole['low'], whole['high'])})"
    ranked = ranked[ranked["bytes"] < whole["bytes"]]
    if ranked.empty:
        return f"No edit is smaller than {name}. {scope}"
    reaching = ranked[ranked["high"] >= whole["low"]]
    if reaching.empty:
        best = largest(ranked, "value")
        told = level_with(best["value"], best["low"], best["high"])
        return f"No smaller edit comes up to {name}: the best is {label(best['method'])} at rank {best['rank']}, {told}. {scope}"
    first = reaching.iloc[0]
    share = percent(first["bytes"] / whole["bytes"])
    return (
        f"The smallest edit whose interval overlaps with that of {name} is {label(first['method'])} at rank {first['rank']}, "
        f"{level_with(first['value'], first['low'], first['high'])}, with {share} of its bytes. {scope}"
    )


@styled
def retraining(table: pd.DataFrame) -> Figure:
    """Share of the edited-away knowledge that retraining on other facts brings back, by method."""
    rows = restored_shares(table)
    if rows.empty:
        return says("No edit was retrained.")
    figure, (axis,) = panels(1, 1, 0.6 + 0.27 * len(rows))
    looks = marks(rows["method"])
    for i, row in enumerate(records(rows)):
        mark = looks[row["method"]]
        value = row["restored"]
        low = 0.0 if pd.isna(row["restored_low"]) else value - row["restored_low"]
        high = 0.0 if pd.isna(row["restored_high"]) else row["restored_high"] - value
        look: dict[str, Any] = {"color": mark.color, "hatch": mark.hatch, "alpha": 0.75, "edgecolor": "white"}
        axis.barh(i, value, xerr=[[low], [high]], capsize=2, error_kw={"elinewidth": 0.8}, **look)
    axis.set_yticks(range(len(rows)), [label(m) for m in rows["method"]])
    axis.invert_yaxis()
    axis.axvline(0, color="#333333", linewidth=0.7)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("share of the old objects that came back")
    return figure


def retraining_caption(table: pd.DataFrame) -> str:
    """How much came back, by method."""
    rows = restored_shares(table)
    if rows.empty:
        return "No edit was retrained."
    found = ", ".join(
        f"{label(r['method'])} {level_with(r['restored'], r['restored_low'], r['restored_high'])}"
        for r in records(rows)
    )
    return (
        "Share of the old objects of held-out edited facts that retraining on other edited facts brought back, by exact "
        "match of the answer (1: all): "
        f"{found}. Mean over {counted(int(rows['seeds'].max()), 'seed')} with {INTERVAL} (n = "
        f"{counted(int(rows['facts'].max()), 'held-out fact')} a seed)."
    )
