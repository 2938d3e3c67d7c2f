"""Low-rank storage: LoRA-native edits against raw and posthoc ones, over the rank and over the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, doublings, error_bars, legend, of_methods, panels, share_axis
from editlab.analysis.edit.cells import cell_costs, final_scores, read_events, stored, stored_rank
from editlab.analysis.edit.comparisons import compare, gain_finding
from editlab.analysis.edit.printing import DIFFERENCE_OF_S, EXCLUDES, METHOD, RANK, SCORE_COLUMNS, add_difference
from editlab.analysis.edit.scores import over, pooled_cells
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells, of_cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, largest, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import label, level_with, percent

ABLATION = "lora_ablation"
PAIRS = (("emmet_lora", "emmet_lora_frobenius"), ("emmet_lora", "emmet"))


def lora_table(cells: Cells) -> pd.DataFrame:
    """Scores, retention, size, seconds and what the cuts kept, one row a cell."""
    rows = []
    for directory, cell in cells:
        events = read_events(directory)
        layers = [layer for e in events for layer in e.get("layers", {}).values()]
        cut = {
            "energy": [x["energy"] for x in layers if "energy" in x],
            "edit_residual": [x.get("edit_residual", x.get("residual", np.nan)) for x in layers],
            "guarded": [x["guard"] != "none" for x in layers if "guard" in x],
        }
        means = {k: float(np.mean(v)) if v else np.nan for k, v in cut.items()}
        costs = {"stored_rank": stored_rank(events), "seconds": cell_costs(directory)["edit_seconds"]}
        rows.append({**cell, **final_scores(directory), **means, **stored(directory), **costs})
    return pd.DataFrame(rows)


def _ranks(table: pd.DataFrame) -> pd.DataFrame:
    """S by method and rank without replay, seeds together, with the bytes stored: value, low, high, bytes, n, seeds."""
    plain = table[table["replay"] == table["replay"].min()] if len(table) else table
    return pooled_cells(plain, ["bytes"]).rename(columns={"S": "value", "S_low": "low", "S_high": "high"})


@figure(
    "Rank, score and bytes",
    "lora_ablation",
    lambda rows: f"S at the end of the stream with {over(rows)}.",
    rows=_ranks,
    cites=("lora.smallest",),
    level=3,
)
def rank_tradeoff(rows: pd.DataFrame) -> Drawing:
    """S over the rank, raw edits as a band; and S over the bytes that the edit needs."""
    figure, axes = panels(2.4, 2, 2, ylabel="S at the end", sharey=True)
    for part, mark, name in of_methods(rows):
        part = part.sort_values("rank")
        if (part["rank"] > 0).any():
            error_bars(axes[0], part["rank"], part, mark, name)
        else:
            raw = Interval.of(part.iloc[0])
            axes[0].axhline(raw.value, color=mark.color, linestyle=mark.line, linewidth=1.0)
            axes[0].axhspan(raw.low, raw.high, color=mark.color, alpha=0.12, linewidth=0)
        error_bars(axes[1], part["bytes"] / 1024, part, mark, name)
    ranks = sorted(rank for rank in rows["rank"].unique() if rank > 0)
    if ranks:
        doublings(axes[0], ranks)
        axes[0].set_xlim(ranks[0] / 1.5, ranks[-1] * 1.5)
    sizes = sorted({round(b / 1024, 1) for b in rows["bytes"]})
    doublings(axes[1], sizes if len(sizes) <= 4 else [*(sizes[k * len(sizes) // 3] for k in range(3)), sizes[-1]])
    axes[0].set_xlabel("rank")
    axes[1].set_xlabel("KiB stored")
    share_axis(axes[0], float(rows["low"].min()))
    legend(figure, axes[1], columns=2)
    return figure


@sheet("lora", "LoRA, posthoc and raw", "lora_ablation", "lora_gain", level=6)
def lora_sheet(tables: Tables) -> Printed:
    """Scores, size and time by method and rank; bold difference to the raw edit where it excludes zero."""
    frame = pooled_cells(tables["lora_ablation"], ["retention", "bytes", "energy", "seconds"])
    frame = add_difference(tables["lora_gain"], frame, "emmet")
    text = (
        f"Success at the end of the stream with {over(frame)}. KiB: what the edit stores in float32; energy: share that the cut "
        f"to the rank kept; ΔS: paired difference to the raw edit on the same cases, {EXCLUDES}."
    )
    stored = Column("bytes", "KiB", "level", 0, 1 / 1024), Column("energy", "energy")
    return Printed(frame, [METHOD, RANK, *SCORE_COLUMNS, *stored, DIFFERENCE_OF_S], text)


def findings(tables: Tables) -> Iterator[Finding]:
    """Native LoRA against the raw edit and against the plain cut, by rank; the bytes; the smallest edit that keeps up."""
    yield from (gain_finding("lora", row) for row in records(tables["lora_gain"]) if row["metric"] == "S")
    table = tables["lora_ablation"]
    if len(table) and (table["rank"] == 0).any():
        yield from _bytes(table)
        yield from _smallest(_ranks(table))


def _bytes(table: pd.DataFrame) -> Iterator[Finding]:
    """How much smaller the stored edit is."""
    raw = float(table.loc[table["rank"] == 0, "bytes"].mean())
    for rank in sorted(table.loc[table["rank"] > 0, "rank"].unique()):
        part = table[(table["rank"] == rank) & (table["bytes"] < raw)]  # a posthoc edit stores the raw one too
        if len(part):
            share = float(part["bytes"].mean()) / raw
            sentence = f"At rank {rank} a LoRA edit stores {percent(share)} of the bytes of the raw edit."
            key = f"lora.bytes_rank{rank}"
            yield Finding(key, sentence, share, share, share, len(part), share < 1, "lora_ablation")


def _smallest(rows: pd.DataFrame) -> Iterator[Finding]:
    """The smallest edit whose interval reaches that of the raw edit."""
    raw, ranked = rows[rows["rank"] == 0], rows[rows["rank"] > 0].sort_values("bytes", kind="stable")
    if raw.empty or ranked.empty:
        return
    whole, n = raw.iloc[0], int(rows["n"].max())
    name = f"the raw {label(whole['method'])} edit ({level_with(*Interval.of(whole))})"
    ranked = ranked[ranked["bytes"] < whole["bytes"]]
    if ranked.empty:
        sentence = f"No edit is smaller than {name}."
        yield Finding("lora.smallest", sentence, *UNKNOWN, n, False, "lora_ablation")
        return
    reaching = ranked[ranked["high"] >= whole["low"]]
    chosen = records(reaching)[0] if len(reaching) else largest(ranked, "value")
    numbers = Interval.of(chosen)
    said = f"{label(chosen['method'])} at rank {chosen['rank']}, {level_with(*numbers)}"
    share = percent(chosen["bytes"] / whole["bytes"])
    sentence = f"No smaller edit reaches the S of {name}: the best is {said}."
    if len(reaching):
        reach = f"The smallest edit whose S has an interval that overlaps with that of {name}"
        sentence = f"{reach} is {said}, with {share} of its bytes."
    yield Finding("lora.smallest", sentence, *numbers, n, True, "lora_ablation")


SCORED, PAIRED = ("metrics.csv", "curve.csv", "events.jsonl", "record"), ("cases.csv", "record")
TOPIC = Topic(
    "LoRA",
    about="low-rank edits",
    tables=(
        Collected("lora_ablation", of_cells(lora_table), (ABLATION,), SCORED),
        Collected("lora_gain", of_cells(partial(compare, pairs=PAIRS)), (ABLATION,), PAIRED),
    ),
    reads=("lora_ablation", "lora_gain"),
)
