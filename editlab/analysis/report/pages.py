"""Interactive pages of the report: each one HTML file that works without a network.

A page is a frame and a script (``report/pages``), the libraries that the script needs, and the data. Libraries and data
are packed (gzip, base64), for two reasons: a browser refuses to show a page of more than two megabytes inside another one,
as Snakemake's report does; and text from data cannot be mistaken for markup.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

LARGEST = 1_450_000  # bytes of a page that a browser shows inside the report
SOURCES = Path("report/pages")
VEGA = ("vega", "vega-lite", "vega-embed")


def pack(text: str) -> str:
    """Text as base64 of its gzip, byte-stable."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def page(title: str, intro: str, script: str, data: Mapping[str, Any], sources: Path = SOURCES) -> str:
    """A page as text.

    Args:
        title, intro: plain text.
        script: ``table`` (DataTables, from the wheel of itables) or ``curve`` (vega, from Snakemake's assets).
        data: what ``{script}.js`` shows, as JSON.
        sources: folder of ``frame.html`` and of the scripts.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    frame = environment.from_string((sources / "frame.html").read_text(encoding="utf-8"))
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    packed = {**_libraries(script), "data": pack(text)}
    program = (sources / f"{script}.js").read_text(encoding="utf-8")
    return frame.render(title=title, intro=intro, packed=json.dumps(packed, sort_keys=True), script=program) + "\n"


def _libraries(script: str) -> dict[str, Any]:
    """The packed libraries and styles of a script."""
    if script == "table":
        bundle = {kind: (files("itables") / "html" / f"dt_bundle.{kind}").read_text("utf-8") for kind in ("js", "css")}
        return {"library": pack(bundle["js"]), "styles": [pack(bundle["css"])]}
    from snakemake.assets import Assets

    return {"libraries": [pack(Assets.get_content(f"{name}/{name}.js")) for name in VEGA]}


def column(frame: pd.DataFrame, name: str, digits: int = 3) -> dict[str, Any]:
    """A column of ``table.js``: number or text, whole numbers without decimals."""
    numeric = pd.api.types.is_numeric_dtype(frame[name])
    whole = numeric and bool((frame[name].dropna() % 1 == 0).all())
    return {"title": name, "kind": "number" if numeric else "text", "digits": 0 if whole else digits, "name": name}


def table_data(
    frame: pd.DataFrame,
    columns: Sequence[Mapping[str, Any]],
    name: str,
    *,
    hidden: Sequence[str] = (),
    filters: Mapping[str, str] | None = None,
    best: str = "",
) -> dict[str, Any]:
    """The data of ``table.js``.

    Args:
        columns: of :func:`column`, or of kind ``interval`` (with ``_low`` and ``_high`` columns beside it).
        name: of the file that a reader exports.
        hidden: titles of columns that a reader has to ask for.
        filters: by title of a column, the value that is chosen at first.
        best: title of the column that rows are sorted by, largest first; empty: by the first column.
    """
    titles = [c["title"] for c in columns]
    order = [titles.index(best), "desc"] if best in titles else [0, "asc"]
    return {
        "name": name,
        "columns": [{k: c[k] for k in ("title", "kind", "digits")} for c in columns],
        "rows": [[_entry(row, c) for c in columns] for row in frame.to_dict("records")],
        "hidden": [t for t in hidden if t in titles],
        "filters": {k: v for k, v in (filters or {}).items() if k in titles},
        "order": [order],
    }


def _entry(row: Mapping[Any, Any], column: Mapping[str, Any]) -> Any:
    name = column["name"]
    if column["kind"] == "interval":
        return [number(row.get(n)) for n in (name, f"{name}_low", f"{name}_high")]
    value = row.get(name)
    if column["kind"] == "number":
        return number(value)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def number(value: Any) -> float | None:
    """A number for JSON, six digits; None where it is unknown."""
    if value is None or not math.isfinite(float(value)):
        return None
    found = float(value)
    return int(found) if found == int(found) else float(f"{found:.6g}")
