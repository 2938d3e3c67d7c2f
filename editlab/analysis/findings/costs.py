"""Findings on time: where the editing time goes, and how much faster the library is."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from editlab.analysis.findings.base import Finding
from editlab.analysis.rows import records
from editlab.analysis.scores import at, headline_settings
from editlab.analysis.tables import EDITING
from editlab.analysis.wording import counted, label, level_with, percent

Tables = Mapping[str, pd.DataFrame]


def cost_findings(tables: Tables) -> list[Finding]:
    """The stage that takes the most of each method's editing time (least and largest share over seeds)."""
    table = tables.get("costs", pd.DataFrame())
    if table.empty:
        return []
    found = []
    for method, part in at(table, headline_settings(table)).groupby("method", sort=False):
        stages = part[[f"cpu_{s}" for s in EDITING]]
        total = stages.sum(axis=1)
        if not (total > 0).all():
            continue
        shares = stages.div(total, axis=0)
        stage = str(shares.mean().idxmax())
        value, low, high = (float(f(shares[stage])) for f in (pd.Series.mean, pd.Series.min, pd.Series.max))
        sentence = (
            f"{percent(value)} of the CPU time of editing with {label(str(method))} goes to its "
            f"{stage.removeprefix('cpu_')} (range over {counted(len(part), 'seed')}: {percent(low)} to {percent(high)})."
        )
        found.append(Finding(f"costs.{method}", sentence, value, low, high, len(part), low > 0.5, "results/costs.csv"))
    return found


def speed_findings(tables: Tables) -> list[Finding]:
    """The measured ratios of the benchmarks."""
    table = tables.get("speed", pd.DataFrame())
    if table.empty:
        return []
    found = []
    for row in records(table[table["speedup"].notna()]):
        value, low, high = (float(row[c]) for c in ("speedup", "speedup_low", "speedup_high"))
        if low > 1:
            times = f"{level_with(value, low, high, 1)} times less CPU time"
        else:
            times = f"{'more' if high < 1 else 'no measurably different'} CPU time (ratio {value:.2f})"
        place = f"{row['x_name']}: {row['x']:g}; {row['machine']}"
        sentence = f"Benchmark {row['benchmark']}, {row['series']}: {times} than {row['against']} ({place})."
        key = f"speed.{row['benchmark']}_{row['series']}_{row['x']:g}".replace(" ", "_")
        n = int(row["repetitions"]) if row["repetitions"] == row["repetitions"] else 1
        found.append(Finding(key, sentence, value, low, high, n, low > 1 or high < 1, "results/speed.csv"))
    return found
