"""Which evaluated epoch of a grid stands for a method: rule U7, matched level, matched disruption. No attack is looked at.

Every evaluated epoch of every run of one (method, rank, seed) is a candidate. It is *admissible* when it keeps the retain
accuracy of the base within ``tau`` on the half of the retained questions that is chosen on, and perplexity on neutral text
within a factor. What is reported of the retained questions comes from the other half.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.config.unlearning import Scoring, Selection
from editlab.errors import DataError
from editlab.files.artifacts import write_json

NO_POINT = "no_point.json"  # stands in a model's directory where no point was admissible
POINT = ["lr", "retain", "epoch"]
SUMMARY = ["forget", "keep", "report", "perplexity", "kl"]


def read_runs(files: Iterable[str], coordinates: Iterable[Mapping[str, str]]) -> pd.DataFrame:
    """Tables of scores with the coordinates of their runs as columns; numbers among them as numbers."""
    parts = [
        pd.read_csv(file, keep_default_na=False, na_values=["nan"]).assign(**where)
        for file, where in zip(files, coordinates, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.astype({name: float for name in ("lr", "retain") if name in table})


def primary_metric(base: pd.DataFrame, options: Scoring) -> str:
    """The measure that points are chosen by: letters where the model before unlearning has the skill, else cloze."""
    if options.primary != "auto":
        return options.primary
    kept = base[base["set"].isin(["same", "other"]) & (base["metric"] == "letters")]
    return "letters" if weighted(kept) >= options.letter_gate else "cloze"


def weighted(rows: pd.DataFrame) -> float:
    """Mean of ``value`` with weights ``n``; NaN without rows."""
    return float((rows["value"] * rows["n"]).sum() / rows["n"].sum()) if len(rows) else float("nan")


def candidates(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a (lr, retain, epoch) with ``forget`` (accuracy, mean over splits), ``n`` forgotten questions, ``keep`` and
    ``report`` (retain accuracy on either half), ``perplexity`` and ``kl``. Epoch 0 is the base.

    Raises:
        DataError: no scores.
    """
    if not len(scores):
        raise DataError("selection: no scores of any run")
    asked = scores[scores["metric"] == metric]
    found = pd.DataFrame(
        {
            "forget": _means(asked[asked["set"] == "forget"]),
            "keep": _means(asked[asked["half"] == "select"]),
            "report": _means(asked[asked["half"] == "report"]),
            "perplexity": _means(scores[scores["metric"] == "perplexity"]),
            "kl": _means(scores[scores["metric"] == "kl"]),
        }
    )
    found["n"] = asked[asked["set"] == "forget"].groupby(POINT)["n"].sum()
    return found.reset_index()


def _means(rows: pd.DataFrame) -> pd.Series[float]:
    return rows.groupby(POINT)["value"].mean()


def admissible(found: pd.DataFrame, base: pd.Series[Any], options: Selection, tau: float | None = None) -> pd.DataFrame:
    """The candidates after epoch 0 that keep what must be kept."""
    limit = float(base["keep"]) - (options.tau if tau is None else tau)
    kept = found[(found["epoch"] > 0) & (found["keep"] >= limit - 1e-9)]
    if not math.isnan(float(base["perplexity"])):
        kept = kept[kept["perplexity"] <= options.perplexity_factor * float(base["perplexity"])]
    return kept


def lowest(found: pd.DataFrame) -> dict[str, Any] | None:
    """The lowest forget accuracy; within one standard error of it the highest retain accuracy, then the smaller rate, then
    fewer epochs. None without candidates."""
    if not len(found):
        return None
    best = found.iloc[int(found["forget"].argmin())]
    share = min(max(float(best["forget"]), 0.0), 1.0)
    error = math.sqrt(share * (1 - share) / max(1.0, float(best["n"])))
    close = found[found["forget"] <= best["forget"] + error + 1e-12]
    return dict(close.sort_values(["keep", "lr", "epoch", "retain"], ascending=[False, True, True, True]).iloc[0])


def choose(scores: pd.DataFrame, metric: str, options: Selection) -> dict[str, Any]:
    """The chosen points of one (method, rank, seed), from the scores of its whole grid.

    Returns:
        ``base`` (epoch 0), and by name a point or None: ``selected`` (rule U7), ``matched`` (admissible and nearest to
        ``level``, within ``tolerance``), ``budget`` (lowest forget accuracy at a KL of at most ``kl_budget``, whatever it costs
        on retained questions).
    """
    found = candidates(scores, metric)
    base = found[found["epoch"] == 0].iloc[0]
    kept = admissible(found, base, options)
    near = kept.assign(gap=(kept["forget"] - options.level).abs())
    near = near[near["gap"] <= options.tolerance + 1e-9]
    matched = dict(near.sort_values(["gap", "lr", "epoch", "retain"]).iloc[0]) if len(near) else None
    cheap = found[(found["epoch"] > 0) & (found["kl"] <= options.kl_budget)]
    return {
        "base": _plain(dict(base)),
        "selected": _plain(lowest(kept)),
        "matched": _plain(matched),
        "budget": _plain(lowest(cheap)),
    }


def _plain(point: dict[str, Any] | None) -> dict[str, Any] | None:
    """A point as JSON holds it; the gap is a means to an end."""
    if point is None:
        return None
    values = {k: float(point[k]) for k in ("lr", "retain", *SUMMARY)}
    return {k: None if math.isnan(v) else v for k, v in values.items()} | {
        "epoch": int(point["epoch"]),
        "n": int(point["n"]),
    }


def choose_stage(
    *,
    files: Sequence[str],
    points: Sequence[Mapping[str, str]],
    selection: Mapping[str, Any],
    scoring: Mapping[str, Any],
    target: str,
) -> None:
    """The points of one (method, rank, seed), chosen from its whole grid."""
    scores = read_runs(files, points)
    metric = primary_metric(scores[scores["epoch"] == 0], Scoring.model_validate(scoring))
    chosen = choose(scores, metric, Selection.model_validate(selection))
    write_json(target, {**chosen, "metric": metric})
