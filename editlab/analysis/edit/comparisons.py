"""Paired differences between cells that edited the same facts: what bold print and sentences may claim.

Four kinds of comparison over the cells of the matrix (a seed draws the same facts in every cell of an experiment):

- ``headline``: every pair of methods at their headline settings;
- ``best``: in each block of equal batch, replay and rank, the method with the best score against every other one;
- ``batch``: a method's largest against its smallest batch, without replay;
- ``replay``: each replay rate of a method against none, at every batch size.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.analysis.edit.cells import read_cases, stored
from editlab.analysis.edit.scores import CONTROLS, SETTING, controls, headline_settings
from editlab.analysis.report.run import Cells
from editlab.analysis.report.topic import Tables
from editlab.analysis.statistics.paired import Difference, Resampled, differences, resampled
from editlab.analysis.statistics.resampling import RESAMPLES
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, label, listed, percent
from editlab.errors import DataError
from editlab.evaluation.summary import METRICS, harmonic_mean

COLUMNS = [
    "kind", "a", "a_batch", "a_replay", "a_rank", "b", "b_batch", "b_replay", "b_rank",
    "metric", "value", "ci_low", "ci_high", "p_value", "n", "seeds",
]  # fmt: skip

NAMES = (*METRICS, "S")
Setting = tuple[str, int, float, int]

Pair = tuple[Setting, Setting]


def with_composite(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """ES, PS, NS and their harmonic mean S."""
    return np.concatenate([means, harmonic_mean(means)[..., None]], axis=-1)


def wide_cases(table: pd.DataFrame, value: str = "success") -> pd.DataFrame:
    """Cases (sorted) x probes of ES, PS, NS."""
    wide = table.pivot_table(index="case_id", columns="probe", values=value, aggfunc="mean")
    return wide.reindex(columns=list(METRICS.values())).sort_index()


def paired_differences(
    pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], *, value: str = "success", resamples: int = RESAMPLES
) -> list[Difference]:
    """ES, PS, NS and S of A minus B.

    Args:
        pairs: one a seed: the tables of A and B with columns case_id, probe and ``value`` (rows of ``cases.csv`` of one
            ``when``).

    Raises:
        DataError: the cases of a pair differ, or there is no pair.
    """
    tables = [(wide_cases(a, value), wide_cases(b, value)) for a, b in pairs]
    if not tables:
        raise DataError("paired comparison: no pair of cells was given")
    if not all(a.index.equals(b.index) for a, b in tables):
        raise DataError("paired comparison: the two cells did not edit the same cases")
    sides = [[a.to_numpy() for a, _ in tables], [b.to_numpy() for _, b in tables]]
    one, other = resampled(sides, with_composite, resamples=resamples)
    return differences(one, other, NAMES)


def comparisons(cells: Cells, resamples: int = RESAMPLES) -> pd.DataFrame:
    """All comparisons of an experiment's cells: :data:`COLUMNS`, A minus B.

    Cells of a pair are matched by seed; a pair without a common seed is left out.

    Raises:
        ArtifactError: a cell is missing, truncated or altered.
        DataError: cells of one seed edited other cases.
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
            self.by_setting.setdefault(setting, {})[cell["seed"]] = wide_cases(read_cases(directory))

    def drawn(self, settings: Sequence[Setting], resamples: int) -> tuple[list[Resampled], int]:
        """The settings drawn together over the seeds that all of them have; no list without such a seed."""
        tables = [self.by_setting[s] for s in settings]
        seeds = [seed for seed in tables[0] if all(seed in t for t in tables)]
        for seed in seeds:
            if not all(t[seed].index.equals(tables[0][seed].index) for t in tables):
                raise DataError(f"paired comparison: {settings[0][0]} and others did not edit the same cases")
        if not seeds:
            return [], 0
        arrays = [[t[seed].to_numpy() for seed in seeds] for t in tables]
        return resampled(arrays, with_composite, resamples=resamples), len(seeds)


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
    return [_row(kind, pair, seeds, d) for d in differences(found[0], found[1], NAMES)] if seeds else []


def _best(block: list[Setting], store: _Cases, resamples: int) -> list[dict[str, Any]]:
    found, seeds = store.drawn(block, resamples)
    rows = []
    for column, _ in enumerate(NAMES if seeds else ()):
        top = max(range(len(block)), key=lambda i: found[i].point[column])
        for other in range(len(block)):
            if other != top:
                difference = differences(found[top], found[other], NAMES)[column]
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


def of_kind(tables: Tables, kind: str) -> list[dict[str, Any]]:
    """Comparisons of S of one kind, controls left out."""
    if "comparisons" not in tables:
        return []
    compared = tables["comparisons"]
    rows = compared[(compared["kind"] == kind) & (compared["metric"] == "S")]
    outside = {*CONTROLS, *(controls(tables["ablation_matrix"]) if "ablation_matrix" in tables else ())}
    return [r for r in records(rows) if r["a"] not in outside]


def how_many(key: str, rows: Sequence[Mapping[str, Any]], found: Sequence[Finding], subject: str) -> list[Finding]:
    """How many of the comparisons of S show a gain or a loss; value: the mean difference."""
    if not found:
        return []
    up, down = sum(f.low > 0 for f in found), sum(f.high < 0 for f in found)
    rest = len(found) - up - down
    parts = [f"raises S measurably in {up}", f"lowers it in {down}", f"makes no measurable difference in {rest}"]
    mean, nan = sum(f.value for f in found) / len(found), float("nan")
    sentence = f"{subject} {listed(parts)} of {counted(len(found), 'comparison')} on the same cases."
    n = max(int(r["n"]) for r in rows)
    return [Finding(key, sentence, mean, nan, nan, n, up + down > 0, "comparisons")]


def compare(cells: Cells, pairs: Sequence[tuple[str, str]], along: Sequence[str] = ("rank", "replay")) -> pd.DataFrame:
    """Paired differences method A - method B over all seeds, at every value of the axes ``along``.

    An axis on which a method collapses (rank of raw recipes) matches any value. ``stored_ratio`` is how many times the
    numbers of B's edit A's edit stores.
    """
    found = {tuple(sorted(cell.items())): directory for directory, cell in cells}
    rows = []
    for a, b in pairs:
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for directory, cell in cells:
            if cell["method"] != a:
                continue
            other = _partner(found, dict(cell) | {"method": b})
            if other is not None:
                groups.setdefault(tuple(cell[k] for k in along), []).append((directory, other))
        for key, matched in groups.items():
            tables = [(read_cases(one), read_cases(two)) for one, two in matched]
            where = dict(zip(along, key, strict=True)) | {"seeds": len(matched), "stored_ratio": _stored_ratio(matched)}
            for difference in paired_differences(tables):
                rows.append({"a": a, "b": b, **where, **dataclasses.asdict(difference)})
    return pd.DataFrame(rows)


def _stored_ratio(matched: Sequence[tuple[str, str]]) -> float:
    """Numbers that the first edits of the pairs store, over those of the second."""
    first, second = (sum(stored(directory)["parameters"] for directory in side) for side in zip(*matched, strict=True))
    return first / second if second else float("nan")


def _partner(found: Mapping[tuple[tuple[str, str], ...], str], wanted: dict[str, str]) -> str | None:
    """The cell with these coordinates, or with rank 0."""
    for cell in (wanted, wanted | {"rank": "0"}):
        if (directory := found.get(tuple(sorted(cell.items())))) is not None:
            return directory
    return None


def pair_key(topic: str, row: Mapping[str, Any]) -> str:
    """Key of a finding on a row of :func:`compare`."""
    replay = f"_replay{row['replay']:g}" if row["replay"] else ""
    return f"{topic}.{row['a']}_vs_{row['b']}_rank{row['rank']}{replay}"


def in_place_of(row: Mapping[str, Any]) -> str:
    """Who is compared, and how much more or less it stores: gains that were bought with parameters must say so."""
    ratio = float(row["stored_ratio"])
    size = f"{ratio:.2g} times" if ratio > 1 else f"{percent(ratio)} of"
    stores = f" (storing {size} its numbers)" if abs(ratio - 1) > 0.02 else ""
    return f"{label(row['a'])} at rank {row['rank']}, in place of {label(row['b'])}{stores},"


def replayed(row: Mapping[str, Any]) -> str:
    """The tail of a sentence: with which replay."""
    return f" with replay {row['replay']:g}" if row["replay"] else ""
