"""How fast the library is: the files of ``make bench`` as one tidy table of what was timed.

Rows: benchmark, series, x, x_name, value, low, high, unit, and for a comparison speedup (median of the ratios) with the
least and largest of what was kept; repetitions; machine. Toy runs (``--quick``) are left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, apart, doublings, error_bars, panels
from editlab.analysis.draw.style import mark_of
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, level, level_with
from editlab.errors import ArtifactError

COLUMNS = [
    "benchmark", "series", "x", "x_name", "value", "low", "high", "unit",
    "speedup", "speedup_low", "speedup_high", "against", "repetitions", "machine",
]  # fmt: skip

Row = dict[str, Any]


def speed_table(files: Sequence[str | Path]) -> pd.DataFrame:
    """One row a measured point; raises ``ArtifactError`` where a file is no benchmark result."""
    rows: list[Row] = []
    for path in files:
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            reader = READERS.get(found["benchmark"])
            if reader is None or found.get("quick"):
                continue
            machine, common = found["machine"], {"benchmark": found["benchmark"]}
            where = f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']}"
            common |= {"machine": where, "repetitions": found.get("repetitions", np.nan)}
            rows += [common | row for row in reader(found)]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ArtifactError(f"{path}: not a benchmark result ({reason}); measure again: make bench") from None
    return pd.DataFrame(rows, columns=COLUMNS)


def _faster(ratios: Mapping[str, float], against: str) -> Row:
    """Median and least ratio of CPU times, as value and interval."""
    median, least = float(ratios["cpu_median"]), float(ratios["cpu_min"])
    ends = sorted((least, median))
    return {"speedup": median, "speedup_low": ends[0], "speedup_high": ends[1], "against": against}


def _targets(found: Mapping[str, Any]) -> Iterator[Row]:
    place = {"x_name": "facts in a batch", "unit": "CPU ms a fact"}
    facts = int(found["facts"])
    for form, name in (("batched", "batched"), ("one_by_one", "one by one")):
        clock, value = found["seconds"][form], found["cpu_ms_per_fact"][form]
        kept = [value, *(1000 * clock[kind] / facts for kind in ("cpu_min", "cpu_median"))]
        faster = _faster(found["speedup"], "one by one") if form == "batched" else {}
        yield {"series": name, "x": facts, "value": value, "low": min(kept), "high": max(kept), **place, **faster}
    for point in found["batched_by_n"]:
        if int(point["facts"]) != facts:
            yield {"series": "batched", "x": int(point["facts"]), "value": point["cpu_ms_per_fact"], **place}


def _solve(found: Mapping[str, Any]) -> Iterator[Row]:
    for layer in found["layers"]:
        for point, (form, name) in itertools.product(layer["rows"], (("woodbury", "n x n"), ("direct", "d x d"))):
            clock, series = point["seconds"][form], f"{name}, d = {layer['d_in']}"
            place = {"series": series, "x": int(point["facts"]), "x_name": "facts", "unit": "CPU s"}
            times = {"value": clock["cpu_min"], "low": clock["cpu_min"], "high": clock["cpu_median"]}
            yield place | times | (_faster(point["speedup"], "d x d") if form == "woodbury" else {})


def _evaluation(found: Mapping[str, Any]) -> Iterator[Row]:
    for threads, measured in found["by_threads"].items():
        rate = float(measured["prompts_per_second"])
        low = min(found["prompts"] / measured["seconds"]["wall_median"], rate)
        place = {"x": int(threads), "x_name": "threads", "unit": "prompts/s"}
        yield {"series": counted(int(threads), "thread"), **place, "value": rate, "low": low, "high": rate}


READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Row]]]
READERS = {"targets": _targets, "solve": _solve, "evaluation": _evaluation}


@figure(
    "Speed benchmarks",
    "speed",
    lambda speed: (
        f"Bars: least and median of the repetitions where they were kept. Measured on {speed['machine'].iloc[0]}, one thread "
        f"(n = {counted(len(speed), 'measurement')}; at most {level(speed['repetitions'].max(), 0)} repetitions each)."
    ),
    rows=lambda speed: speed[speed["benchmark"].isin(list(READERS))],
    empty="No benchmark has been run: make bench.",
    cites=("speed.*",),
)
def speed_benchmark(speed: pd.DataFrame) -> Drawing:
    """CPU milliseconds a fact of the targets, seconds of a solve, prompts scored a second: whatever was measured."""
    names = [name for name in READERS if (speed["benchmark"] == name).any()]
    figure, axes = panels(0.3 + 1.6 * len(names), len(names))
    for axis, name in zip(axes, names, strict=True):
        part = speed[speed["benchmark"] == name]
        for i, (series, rows) in enumerate(part.groupby("series", sort=False)):
            mark, ordered = mark_of(i), rows.sort_values("x")
            if len(ordered) == 1:
                axis.axhline(ordered["value"].iloc[0], color=mark.color, linestyle=mark.line, linewidth=0.8)
            error_bars(axis, ordered["x"], ordered, mark, str(series))
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        doublings(axis, apart(sorted(part["x"].unique())))
        axis.set(title=name, xlabel=part["x_name"].iloc[0], ylabel=part["unit"].iloc[0])
        axis.margins(y=0.15)
        axis.legend(loc="best", handlelength=2.0)
    return figure


def findings(tables: Tables) -> Iterator[Finding]:
    """The measured ratios of the benchmarks."""
    table = tables["speed"]
    for row in records(table[table["speedup"].notna()]):
        numbers = Interval.of(row, "speedup")
        value, low, high = numbers
        times = f"{'more' if high < 1 else 'no measurably different'} CPU time (ratio {value:.2f})"
        times = f"{level_with(*numbers, 1)} times less CPU time" if low > 1 else times
        place = f"{row['x_name']}: {row['x']:g}; {row['machine']}"
        sentence = f"Benchmark {row['benchmark']}, {row['series']}: {times} than {row['against']} ({place})."
        key = f"speed.{row['benchmark']}_{row['series']}_{row['x']:g}".replace(" ", "_")
        n = int(row["repetitions"]) if row["repetitions"] == row["repetitions"] else 1
        yield Finding(key, sentence, *numbers, n, low > 1 or high < 1, "speed")


TOPIC = Topic(
    "Costs",
    tables=(Collected("speed", lambda run: speed_table(run.inputs["benchmarks"]), inputs=("benchmarks",)),),
    reads=("speed",),
)
