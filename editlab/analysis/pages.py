"""Interactive pages of the report: each one HTML file that works without a network.

A page is a frame and a script (``report/pages``), the library that the script needs, and the data. Library and data are
packed (gzip, base64), for two reasons: a browser refuses to show a page of more than two megabytes inside another one,
as Snakemake's report does; and text from data cannot be mistaken for markup.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.intervals import mean_table
from editlab.analysis.scores import CONTROLS, SETTING, pooled_curves
from editlab.analysis.style import marks
from editlab.analysis.wording import counted, label, level_with, listed, rst

LARGEST = 1_450_000  # bytes of a page that a browser shows inside the report
SCORES = ("S", "ES", "PS", "NS")
AXES = ("method", "batch", "replay", "capacity", "strategy", "rank", "seed", "when", "protocol")
EXTRA = {"GE": 2, "perplexity": 1, "delta_norm": 1, "retention": 3, "parameters": 0, "acceptance": 3}
TITLES = {"GE": "GE", "delta_norm": "norm of the change"}
HIDDEN = ("capacity", "strategy", "when", "protocol", "edits", "GE", "norm of the change")
METRICS = {
    "retention_success": "retention of all earlier edits (success)",
    "retention_accuracy": "retention of all earlier edits (accuracy)",
    "neighborhood_success": "neighbours (success)",
    "neighborhood_accuracy": "neighbours (accuracy)",
    "perplexity": "perplexity of held-out text",
    "target_norm": "mean norm of targets",
}
# Title and introduction of each page.
CELLS = (
    "All cells",
    "Every cell of every experiment: scores with 95 % intervals over its facts. Click on a column head to sort (with shift by "
    "several), type under it to filter, or choose what is scored, when, and in which experiment.",
)
CURVES = (
    "Along a stream",
    "What is left of earlier edits, and of what was not edited, as a stream goes on: means over seeds with 95 % bands. Click on "
    "a method in the legend to keep it alone (with shift several); point at a mark for its numbers.",
)
MISSED = (
    "Missed facts",
    "The edited facts that came out worst over all streams that edited them, controls left out. ES, PS and NS are shares of "
    "streams and prompts; missed_by names the methods whose final model still prefers the old object.",
)


def read_tables(experiments: Sequence[str], files: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Tables by experiment; rates and names stay text, so that they show as they were declared."""
    as_text = dict.fromkeys(("method", "replay", "strategy"), str)
    return {e: pd.read_csv(f, dtype=as_text) for e, f in zip(experiments, files, strict=True)}


def pack(text: str) -> str:
    """Text as base64 of its gzip, byte-stable."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def page(frame: str, script: str, title: str, intro: str, packed: Mapping[str, Any], style: str = "") -> str:
    """Fill the frame.

    Args:
        frame: text of ``report/pages/frame.html``.
        script: text of the page's script, which sees ``packed`` under that name.
        title, intro: plain text.
        packed: values are packed texts or lists of them.
    """
    parts = {
        "TITLE": html.escape(title),
        "INTRO": html.escape(intro),
        "STYLE": style,
        "PACKED": json.dumps(dict(packed), sort_keys=True),
        "SCRIPT": script,
    }
    for name, text in parts.items():
        frame = frame.replace(f"<!--{name}-->", text)
    return frame


# ---- tables ------------------------------------------------------------------------------------------------------


def cells_table(tables: Mapping[str, pd.DataFrame], name: str = "cells") -> dict[str, Any]:
    """All cells of all experiments as the data of ``table.js``.

    Args:
        tables: by experiment, rows of cells: the coordinates, ES, PS, NS, S with ``_low`` and ``_high``, and what else
            the experiment has. Tables without ``when`` and ``protocol`` hold final success.
    """
    parts = []
    for experiment, table in tables.items():
        defaults = {"when": "final", "protocol": "success"}
        missing = {k: v for k, v in defaults.items() if k not in table}
        parts.append(table.assign(experiment=experiment, **missing))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["experiment", *AXES])
    names = ["experiment", *(a for a in AXES if a in frame), *(c for c in ("edits", "n") if c in frame)]
    columns = [_column(frame, n) for n in names]
    columns += [{"title": s, "kind": "interval", "digits": 3, "name": s} for s in SCORES if s in frame]
    columns += [
        {"title": TITLES.get(n, n), "kind": "number", "digits": d, "name": n} for n, d in EXTRA.items() if n in frame
    ]
    return _table_data(frame, columns, name, filters={"when": "final", "protocol": "success", "experiment": "edit"})


def plain_table(frame: pd.DataFrame, name: str, digits: int = 3) -> dict[str, Any]:
    """Any small table as the data of ``table.js``."""
    return _table_data(frame, [_column(frame, str(c), digits) for c in frame.columns], name, filters={})


def _column(frame: pd.DataFrame, name: str, digits: int = 3) -> dict[str, Any]:
    numeric = pd.api.types.is_numeric_dtype(frame[name])
    whole = numeric and bool((frame[name].dropna() % 1 == 0).all())
    return {"title": name, "kind": "number" if numeric else "text", "digits": 0 if whole else digits, "name": name}


def _table_data(
    frame: pd.DataFrame, columns: Sequence[Mapping[str, Any]], name: str, filters: Mapping[str, str]
) -> dict[str, Any]:
    titles = [c["title"] for c in columns]
    best = titles.index("S") if "S" in titles else 0
    return {
        "name": name,
        "columns": [{k: c[k] for k in ("title", "kind", "digits")} for c in columns],
        "rows": [[_entry(row, c) for c in columns] for row in frame.to_dict("records")],
        "hidden": [t for t in HIDDEN if t in titles],
        "filters": {k: v for k, v in filters.items() if k in titles},
        "order": [[best, "desc" if "S" in titles else "asc"]],
    }


def _entry(row: Mapping[Any, Any], column: Mapping[str, Any]) -> Any:
    name = column["name"]
    if column["kind"] == "interval":
        return [_number(row.get(n)) for n in (name, f"{name}_low", f"{name}_high")]
    value = row.get(name)
    if column["kind"] == "number":
        return _number(value)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _number(value: Any) -> float | None:
    if value is None or not math.isfinite(float(value)):
        return None
    number = float(value)
    return int(number) if number == int(number) else float(f"{number:.6g}")


def table_page(
    data: Mapping[str, Any], title: str, intro: str, *, frame: str, script: str, library: str, style: str
) -> str:
    """A page with one table: ``library`` and ``style`` are the texts of DataTables' bundle."""
    packed = {"library": pack(library), "styles": [pack(style)], "data": pack(_json(data))}
    return page(frame, script, title, intro, packed)


# ---- curves ------------------------------------------------------------------------------------------------------


def curve_points(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Curves of all experiments with seeds together: one row a (experiment, setting, edits_seen, metric).

    Shares have Wilson's interval of their cases pooled over seeds, other metrics Student's over seeds.
    """
    parts = []
    for experiment, table in curves.items():
        table = table[table["metric"].isin(METRICS)]
        shares = table[table["metric"].str.contains("success|accuracy")]
        if len(shares):
            parts.append(pooled_curves(shares).assign(experiment=experiment))
        rest = table[~table.index.isin(shares.index)]
        if len(rest):
            keys = [*SETTING, "edits_seen", "metric"]
            means = mean_table(rest, keys, ["value"]).rename(columns={"value_low": "low", "value_high": "high"})
            parts.append(means.assign(experiment=experiment, n=means["seeds"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["experiment", *SETTING, "metric"])


def curve_data(curves: Mapping[str, pd.DataFrame], name: str = "forgetting") -> dict[str, Any]:
    """The data of ``curve.js``: a vega-lite plot of every curve with its 95 % band, and the choices beside it."""
    points = curve_points(curves)
    points = points.assign(label=points["method"].map(label))
    points = points.assign(metric=points["metric"].map(METRICS))
    rows: list[dict[str, Any]] = [
        {
            str(k): (_number(v) if k in ("value", "low", "high", "edits_seen", "n", "seeds") else str(v))
            for k, v in row.items()
        }
        for row in points.to_dict("records")
    ]
    found = marks(dict.fromkeys(points["method"]))
    colors = {label(method): mark.color for method, mark in found.items()}
    metrics = [m for m in METRICS.values() if m in set(points["metric"])]
    rows = [row | {"control": "yes" if row["method"] in CONTROLS else "no"} for row in rows]
    choices = [
        _choice("experiment", "experiment", list(dict.fromkeys(points["experiment"]))),
        _choice("metric", "shown", metrics),
        _choice("batch", "batch", ["all", *sorted({str(b) for b in points["batch"]}, key=float)]),
        _choice("replay", "replay", ["all", *sorted({str(r) for r in points["replay"]}, key=float)]),
        {"name": "controls", "parameter": "controls", "options": [["hide", "hide"], ["show", "show"]]},
    ]
    return {"name": name, "spec": _curve_spec(rows, colors, choices), "choices": choices}


def _choice(name: str, parameter: str, values: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "parameter": parameter, "options": [[v, v] for v in values or ["none"]]}


def _curve_spec(
    rows: list[dict[str, Any]], colors: Mapping[str, str], choices: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """vega-lite: bands and lines of the rows that fit the choices."""
    first = {c["parameter"]: c["options"][0][0] for c in choices}
    fits = " && ".join(
        [
            "datum.experiment == experiment",
            "datum.metric == shown",
            "(batch == 'all' || datum.batch == batch)",
            "(replay == 'all' || datum.replay == replay)",
            "(controls == 'show' || datum.control == 'no')",
        ]
    )
    x = {
        "field": "edits_seen",
        "type": "quantitative",
        "title": "edits seen",
        "scale": {"zero": False},
        "axis": {"tickCount": 8},
    }
    y = {"type": "quantitative", "title": None, "scale": {"zero": False}}
    color = {
        "field": "label",
        "type": "nominal",
        "title": "method",
        "scale": {"domain": list(colors), "range": list(colors.values())},
    }
    setting = [{"field": name, "type": "nominal"} for name in ("label", "batch", "replay", "rank")]
    seen = {"condition": {"param": "methods", "value": 1}, "value": 0.08}
    faint = {"condition": {"param": "methods", "value": 0.15}, "value": 0.02}
    tooltip = [
        {"field": field, "title": title}
        for field, title in (
            ("label", "method"),
            ("batch", "batch"),
            ("replay", "replay"),
            ("rank", "rank"),
            ("edits_seen", "edits seen"),
            ("value", "value"),
            ("low", "low (95 %)"),
            ("high", "high (95 %)"),
            ("n", "n"),
            ("seeds", "seeds"),
        )
    ]
    dash = {"field": "replay", "type": "nominal", "title": "replay"}
    shape = {"field": "batch", "type": "nominal", "title": "batch"}
    return {
        "data": {"values": rows},
        "params": [{"name": name, "value": value} for name, value in first.items()],
        "transform": [{"filter": fits}],
        "layer": [
            {
                "mark": {"type": "area"},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "low"},
                    "y2": {"field": "high"},
                    "color": color,
                    "opacity": faint,
                    "detail": setting,
                },
            },
            {
                "params": [{"name": "methods", "select": {"type": "point", "fields": ["label"]}, "bind": "legend"}],
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "value"},
                    "color": color,
                    "strokeDash": dash,
                    "opacity": seen,
                    "detail": setting,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 45},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "value"},
                    "color": color,
                    "shape": shape,
                    "opacity": seen,
                    "detail": setting,
                    "tooltip": tooltip,
                },
            },
        ],
        "config": {"view": {"stroke": None}, "axis": {"gridColor": "#e3e3e3"}, "legend": {"symbolOpacity": 1}},
    }


def curve_page(
    data: Mapping[str, Any], title: str, intro: str, *, frame: str, script: str, libraries: Sequence[str]
) -> str:
    """A page with one plot: ``libraries`` are the texts of vega, vega-lite and vega-embed, in this order."""
    packed = {"libraries": [pack(text) for text in libraries], "data": pack(_json(data))}
    return page(frame, script, title, intro, packed)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


# ---- captions ----------------------------------------------------------------------------------------------------


def cells_caption(tables: Mapping[str, pd.DataFrame]) -> str:
    """How many cells there are, and the best of each experiment (reStructuredText)."""
    best, cells = [], 0
    for experiment, table in tables.items():
        coordinates = [a for a in AXES[:7] if a in table]
        cells += len(table.drop_duplicates(coordinates))
        final = table[(table["when"] == "final") & (table["protocol"] == "success")] if "when" in table else table
        final = final[~final["method"].isin(CONTROLS)].dropna(subset="S")
        if len(final):
            row = final.iloc[int(final["S"].argmax())]
            best.append(
                f"{label(str(row['method']))} in {experiment} ({level_with(row['S'], row['S_low'], row['S_high'])})"
            )
    text = f"{counted(cells, 'cell')} in {counted(len(tables), 'experiment')}."
    highest = f" The cells with the highest composite score after their stream: {listed(best)}." if best else ""
    return rst(text + highest + " Intervals are over the facts of a cell.") + "\n"


def curves_caption(curves: Mapping[str, pd.DataFrame]) -> str:
    """How retention ends in each experiment (reStructuredText)."""
    points = curve_points(curves)
    sentences = []
    shown = points[(points["metric"] == "retention_success") & ~points["method"].isin(CONTROLS)]
    for experiment, part in shown.groupby("experiment", sort=False):
        last = part[part["edits_seen"] == part["edits_seen"].max()]
        low, high = last.iloc[int(last["value"].argmin())], last.iloc[int(last["value"].argmax())]
        sentences.append(
            f"In {experiment}, after {counted(int(last['edits_seen'].max()), 'edit')}, retention of earlier edits runs from "
            f"{level_with(low['value'], low['low'], low['high'])} ({label(str(low['method']))}) to "
            f"{level_with(high['value'], high['low'], high['high'])} ({label(str(high['method']))}), n at most "
            f"{int(last['n'].max()):,} facts."
        )
    return rst(" ".join(sentences) or "No experiment of this study has curves.") + "\n"


def missed_caption(missed: pd.DataFrame) -> str:
    """How many facts are in the list and how bad the worst is (reStructuredText)."""
    if missed.empty:
        return rst("No edited fact failed on its rewrite prompt or its paraphrases.") + "\n"
    lost = int((missed["ES"] < 0.5).sum())
    worst = missed.iloc[0]
    text = (
        f"The {counted(len(missed), 'worst fact')}; {lost} of them kept the old object in more than half of their streams. "
        f"The worst, {worst['prompt']!r} (to be {worst['target_new']!r}), has an efficacy of {worst['ES']:.2f} over "
        f"{counted(int(worst['streams']), 'stream')}."
    )
    return rst(text) + "\n"
