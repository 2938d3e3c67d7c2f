"""Paired differences over the cells of a matrix: what bold print and sentences may claim.

Four kinds of comparison, all over the same facts (a seed draws the same facts in every cell of an experiment):

- ``headline``: every pair of methods at their headline settings;
- ``best``: in each block of equal batch, replay and rank, the method with the best score against every other one;
- ``batch``: a method's largest against its smallest batch, without replay;
- ``replay``: each replay rate of a method against none, at every batch size.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.paired import NAMES, Resampled, differences, resampled, wide_cases
from editlab.analysis.scores import CONTROLS, SETTING, headline_settings
from editlab.errors import DataError
from editlab.files.artifacts import read_verified

COLUMNS = [
    "kind", "a", "a_batch", "a_replay", "a_rank", "b", "b_batch", "b_replay", "b_rank",
    "metric", "value", "ci_low", "ci_high", "p_value", "n", "seeds",
]  # fmt: skip
Cells = Sequence[tuple[str, Mapping[str, str]]]
Setting = tuple[str, int, float, int]
Pair = tuple[Setting, Setting]


def comparisons(cells: Cells, resamples: int = 2000) -> pd.DataFrame:
    """All comparisons of an experiment's cells: :data:`COLUMNS`, A minus B.

    Cells of a pair are matched by seed; a pair without a common seed is left out.

    Raises:
        ArtifactError: a cell is missing, truncated or altered.
    """
    store = _Cases(cells)
    rows: list[dict[str, Any]] = []
    for kind, pairs in _families(store):
        for pair in pairs:
            rows += _rows(kind, pair, store, resamples)
    for block in _blocks(store):
        rows += _best(block, store, resamples)
    return pd.DataFrame(rows, columns=COLUMNS)


class _Cases:
    """The scores by case of every setting and seed."""

    def __init__(self, cells: Cells) -> None:
        self.by_setting: dict[Setting, dict[str, pd.DataFrame]] = {}
        for directory, cell in cells:
            setting = (cell["method"], int(cell["batch"]), float(cell["replay"]), int(cell["rank"]))
            table = pd.read_csv(read_verified(Path(directory) / "cases.csv"), dtype={"case_id": str})
            cases = wide_cases(table[table["when"] == "final"])
            self.by_setting.setdefault(setting, {})[cell["seed"]] = cases

    def drawn(self, settings: Sequence[Setting], resamples: int) -> tuple[list[Resampled], int]:
        """The settings drawn together over the seeds that all of them have; no list without such a seed."""
        tables = [self.by_setting[s] for s in settings]
        seeds = [seed for seed in tables[0] if all(seed in t for t in tables)]
        for seed in seeds:
            if not all(t[seed].index.equals(tables[0][seed].index) for t in tables):
                raise DataError(f"paired comparison: {settings[0][0]} and others did not edit the same cases")
        if not seeds:
            return [], 0
        return resampled([[t[seed] for seed in seeds] for t in tables], resamples=resamples), len(seeds)


def _families(store: _Cases) -> Iterator[tuple[str, list[Pair]]]:
    settings = pd.DataFrame(list(store.by_setting), columns=list(SETTING))
    if settings.empty:
        return
    yield "headline", list(itertools.combinations(_tuples(headline_settings(settings)), 2))
    batch: list[Pair] = []
    replay: list[Pair] = []
    for _, part in settings.groupby(["method", "rank"], sort=False):
        plain = part[part["replay"] == part["replay"].min()].sort_values("batch")
        if plain["batch"].nunique() > 1:
            largest, smallest = _tuples(plain.iloc[[-1, 0]])
            batch.append((largest, smallest))
        for _, same in part.groupby("batch", sort=True):
            ordered = _tuples(same.sort_values("replay"))
            replay += [(other, ordered[0]) for other in ordered[1:] if ordered[0][2] == 0]
    yield "batch", batch
    yield "replay", replay


def _blocks(store: _Cases) -> list[list[Setting]]:
    """Contestants that share batch, replay and rank, where there are two or more."""
    found: dict[tuple[float, ...], list[Setting]] = {}
    for setting in store.by_setting:
        if setting[0] not in CONTROLS:
            found.setdefault(setting[1:], []).append(setting)
    return [block for block in found.values() if len(block) > 1]


def _tuples(frame: pd.DataFrame) -> list[Setting]:
    rows = frame[list(SETTING)].itertuples(index=False, name=None)
    return [(str(m), int(b), float(r), int(k)) for m, b, r, k in rows]


def _rows(kind: str, pair: Pair, store: _Cases, resamples: int) -> list[dict[str, Any]]:
    found, seeds = store.drawn(pair, resamples)
    if not seeds:
        return []
    return [_row(kind, pair, seeds, difference) for difference in differences(found[0], found[1])]


def _best(block: list[Setting], store: _Cases, resamples: int) -> list[dict[str, Any]]:
    found, seeds = store.drawn(block, resamples)
    rows = []
    for column, metric in enumerate(NAMES if seeds else ()):
        top = max(range(len(block)), key=lambda i: found[i].point[column])
        for other in range(len(block)):
            if other != top:
                difference = differences(found[top], found[other])[column]
                assert difference.metric == metric
                rows.append(_row("best", (block[top], block[other]), seeds, difference))
    return rows


def _row(kind: str, pair: Pair, seeds: int, difference: Any) -> dict[str, Any]:
    names = [f"{side}{axis}" for side in ("a", "b") for axis in ("", "_batch", "_replay", "_rank")]
    place = dict(zip(names, [*pair[0], *pair[1]], strict=True))
    return {"kind": kind, **place, **dataclasses.asdict(difference), "seeds": seeds}


def between(table: pd.DataFrame, a: str, b: str, metric: str, kind: str = "headline") -> dict[str, float] | None:
    """value, ci_low, ci_high and p_value of A minus B, whichever way round the table has the pair; None: not there."""
    rows = table[(table["kind"] == kind) & (table["metric"] == metric)]
    for one, other, sign in ((a, b, 1.0), (b, a, -1.0)):
        match = rows[(rows["a"] == one) & (rows["b"] == other)]
        if len(match):
            row = match.iloc[0]
            edges = sorted((sign * float(row["ci_low"]), sign * float(row["ci_high"])))
            found = {"value": sign * float(row["value"]), "ci_low": edges[0], "ci_high": edges[1]}
            return found | {"p_value": float(row["p_value"]), "n": float(row["n"]), "seeds": float(row["seeds"])}
    return None


def clear_winner(table: pd.DataFrame, best: str, others: Sequence[str], metric: str, kind: str = "headline") -> bool:
    """Whether ``best`` is above every other method on the same cases: each 95 % interval lies above zero.

    All intervals have to, so no correction for the number of comparisons is due (an intersection-union test). A pair
    that was not compared counts against the claim.
    """
    found = [between(table, best, other, metric, kind) for other in others if other != best]
    return bool(found) and all(pair is not None and pair["ci_low"] > 0 for pair in found)
