"""Paired differences between cells that edited the same facts: what bold print and sentences may claim.

Four kinds of comparison over the cells of the matrix (a seed draws the same facts in every cell of an experiment):

- ``headline``: every pair of methods at their headline settings;
- ``best``: in each block of equal batch, replay and rank, the method with the best score against every other one;
- ``batch``: a method's largest against its smallest batch, without replay;
- ``replay``: each replay rate of a method against none, at every batch size.

The comparisons of a kind on one metric are a family: ``p_holm`` is adjusted for their number (Holm 1979). One whose cells
scored exactly as those of an earlier one *repeats* it and does not count again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.analysis.edit.cells import read_cases, stored
from editlab.analysis.edit.scores import CONTROLS, SETTING, controls, headline_settings
from editlab.analysis.report.run import Cells
from editlab.analysis.report.topic import Tables
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.statistics.paired import Resampled, difference, resampled
from editlab.analysis.statistics.streams import holm
from editlab.analysis.text.findings import Finding, difference_finding
from editlab.analysis.text.wording import counted, label, listed, percent
from editlab.errors import DataError
from editlab.evaluation.summary import METRICS, harmonic_mean

PLACES = [f"{side}{axis}" for side in ("a", "b") for axis in ("", "_batch", "_replay", "_rank")]
NUMBERS = ("value", "ci_low", "ci_high", "p_value", "p_holm", "n", "general", "seeds", "repeats")
COLUMNS = ["kind", *PLACES, "metric", *NUMBERS]
NAMES = (*METRICS, "S")
Setting = tuple[str, int, float, int]
Store = Mapping[Setting, Mapping[str, pd.DataFrame]]  # by setting and seed: cases x probes


def with_composite(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """ES, PS, NS and their harmonic mean S."""
    return np.concatenate([means, harmonic_mean(means)[..., None]], axis=-1)


def wide_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Cases (sorted) x probes of ES, PS, NS."""
    wide = table.pivot_table(index="case_id", columns="probe", values="success", aggfunc="mean")
    return wide.reindex(columns=list(METRICS.values())).sort_index()


def _drawn(methods: Sequence[Sequence[pd.DataFrame]]) -> list[Resampled]:
    """Methods drawn together, from their cases x probes, one table a seed."""
    for tables in zip(*methods, strict=True):
        if not all(table.index.equals(tables[0].index) for table in tables):
            raise DataError("paired comparison: the cells of one seed did not edit the same cases")
    arrays = [[table.to_numpy() for table in tables] for tables in methods]
    return resampled(arrays, with_composite)


def paired_differences(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> list[dict[str, Any]]:
    """ES, PS, NS and S of A minus B, one row a metric.

    Args:
        pairs: one a seed: the tables of A and B with columns case_id, probe and success (rows of ``cases.csv`` of one ``when``).

    Raises:
        DataError: the cases of a pair differ, or there is no pair.
    """
    if not pairs:
        raise DataError("paired comparison: no pair of cells was given")
    one, other = _drawn([[wide_cases(table) for table in side] for side in zip(*pairs, strict=True)])
    return [{"metric": name, **difference(one, other, column)} for column, name in enumerate(NAMES)]


def comparisons(cells: Cells) -> pd.DataFrame:
    """All comparisons of an experiment's cells: :data:`COLUMNS`, A minus B.

    Cells of a pair are matched by seed; a pair without a common seed is left out.

    Raises:
        ArtifactError: a cell is missing, truncated or altered.
        DataError: cells of one seed edited other cases.
    """
    store: dict[Setting, dict[str, pd.DataFrame]] = {}
    for directory, cell in cells:
        setting = (cell["method"], int(cell["batch"]), float(cell["replay"]), int(cell["rank"]))
        store.setdefault(setting, {})[cell["seed"]] = wide_cases(read_cases(directory))
    rows: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for kind, settings in [*_pairs(store), *_blocks(store)]:
        seeds = [seed for seed in store[settings[0]] if all(seed in store[s] for s in settings)]
        repeats = kind != "best" and seen_before(kind, [store[s] for s in settings], seen)
        found = _drawn([[store[s][seed] for seed in seeds] for s in settings]) if seeds else []
        for column, metric in enumerate(NAMES if seeds else ()):
            top = max(range(len(found)), key=lambda i: found[i].point[column]) if kind == "best" else 0
            for other in (i for i in range(len(found)) if i != top):
                place = dict(zip(PLACES, (*settings[top], *settings[other]), strict=True))
                fixed = {"kind": kind, **place, "metric": metric, "seeds": len(seeds), "repeats": repeats}
                rows.append(fixed | difference(found[top], found[other], column))
    return adjusted(pd.DataFrame(rows, columns=COLUMNS), ["kind", "metric"])


def seen_before(kind: Any, sides: Sequence[Mapping[str, pd.DataFrame]], seen: set[Any]) -> bool:
    """Whether cells with exactly these scores by case were compared before."""
    scores = tuple((seed, table.to_numpy().tobytes()) for side in sides for seed, table in sorted(side.items()))
    known = (kind, scores) in seen
    seen.add((kind, scores))
    return known


def adjusted(table: pd.DataFrame, family: Sequence[str]) -> pd.DataFrame:
    """Fill ``p_holm`` of each family of comparisons; one that ``repeats`` another has its p-value and does not count."""
    table = table.assign(p_holm=np.nan, repeats=table["repeats"].eq(True) if "repeats" in table else False)
    for _, part in table.groupby(list(family), sort=False):
        once = part[~part["repeats"]]
        by_p = dict(zip(once["p_value"], holm(once["p_value"].tolist()), strict=True))
        table.loc[part.index, "p_holm"] = part["p_value"].map(by_p)
    return table


def _pairs(store: Store) -> Iterator[tuple[str, Sequence[Setting]]]:
    """The pairs of every kind but ``best``, kind by kind."""
    settings = pd.DataFrame(list(store), columns=list(SETTING))
    if settings.empty:
        return
    for pair in itertools.combinations(_tuples(headline_settings(settings)), 2):
        yield "headline", pair
    groups = [part for _, part in settings.groupby(["method", "rank"], sort=False)]
    for part in groups:
        plain = _tuples(part[part["replay"] == part["replay"].min()].sort_values("batch"))
        if len({setting[1] for setting in plain}) > 1:
            yield "batch", (plain[-1], plain[0])
    for part in groups:
        for _, same in part.groupby("batch", sort=True):
            none, *others = _tuples(same.sort_values("replay"))
            for other in others if none[2] == 0 else ():
                yield "replay", (other, none)


def _blocks(store: Store) -> list[tuple[str, Sequence[Setting]]]:
    """Contestants that share batch, replay and rank, where there are two or more."""
    found: dict[tuple[float, ...], list[Setting]] = {}
    for setting in store:
        if setting[0] not in CONTROLS:
            found.setdefault(setting[1:], []).append(setting)
    return [("best", block) for block in found.values() if len(block) > 1]


def _tuples(frame: pd.DataFrame) -> list[Setting]:
    rows = frame[list(SETTING)].itertuples(index=False, name=None)
    return [(str(m), int(b), float(r), int(k)) for m, b, r, k in rows]


def between(table: pd.DataFrame, a: str, b: str, metric: str, kind: str = "headline") -> Interval | None:
    """A minus B, whichever way round the table has the pair; None: not there."""
    rows = table[(table["kind"] == kind) & (table["metric"] == metric)]
    for one, other, sign in ((a, b, 1.0), (b, a, -1.0)):
        match = rows[(rows["a"] == one) & (rows["b"] == other)]
        if len(match):
            value, *ends = Interval.of(match.iloc[0])
            return Interval(sign * value, *sorted(sign * end for end in ends))
    return None


def clear_winner(table: pd.DataFrame, best: str, others: Sequence[str], metric: str, kind: str = "headline") -> bool:
    """Whether ``best`` is above every other method on the same cases: each 95 % interval lies above zero.

    All intervals have to, so no correction for the number of comparisons is due (an intersection-union test). A pair
    that was not compared counts against the claim.
    """
    found = [between(table, best, other, metric, kind) for other in others if other != best]
    return bool(found) and all(pair is not None and pair.low > 0 for pair in found)


def of_kind(
    tables: Tables, kind: str, tell: Callable[[Mapping[str, Any]], tuple[str, str, str]], what: str
) -> Iterator[Finding]:
    """The comparisons of S of one kind, controls left out; last, how many of them show a gain or a loss.

    Args:
        tell: key, subject and tail of :func:`editlab.analysis.text.findings.difference_finding`, from a row.
        what: was changed, in all of them.
    """
    compared, matrix = tables["comparisons"], tables["ablation_matrix"]
    if compared.empty:
        return
    rows = compared[(compared["kind"] == kind) & (compared["metric"] == "S") & ~compared["repeats"]]
    outside = {*CONTROLS, *(controls(matrix) if len(matrix) else ())}
    found = []
    for row in records(rows[~rows["a"].isin(outside)]):
        key, subject, tail = tell(row)
        found.append(difference_finding(key, row, subject, "S", "comparisons", tail))
    if not found:
        return
    yield from found
    up, down = (sum(f.supported and sign * f.value > 0 for f in found) for sign in (1, -1))
    rest = len(found) - up - down
    parts = [f"raises S measurably in {up}", f"lowers it in {down}", f"makes no measurable difference in {rest}"]
    sentence = f"{what} {listed(parts)} of {counted(len(found), 'comparison')} on the same cases."
    mean, n = Interval(sum(f.value for f in found) / len(found)), max(f.n for f in found)
    yield Finding(f"{kind}.summary", sentence, *mean, n, up + down > 0, "comparisons")


def against(
    cells: Cells,
    along: Sequence[str],
    rival: Callable[[Mapping[str, str]], str | None],
    tell: Callable[..., Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Paired differences of cells to their rivals over all seeds, one place (values of the axes ``along``) after another.

    Args:
        rival: the folder that a cell is held against; None leaves the cell out.
        tell: further columns, from the place and its pairs of folders.
    """
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for directory, cell in cells:
        if (other := rival(cell)) is not None:
            groups.setdefault(tuple(cell[k] for k in along), []).append((directory, other))
    rows = []
    for place, pairs in groups.items():
        fixed = dict(zip(along, place, strict=True)) | {"seeds": len(pairs), **tell(place, pairs)}
        found = paired_differences([(read_cases(one), read_cases(two)) for one, two in pairs])
        rows += [fixed | difference for difference in found]
    return rows


def compare(cells: Cells, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Paired differences method A - method B over all seeds, at every rank and replay rate.

    A rank on which a method collapses (that of raw recipes) matches any other. ``stored_ratio`` is how many times the
    numbers of B's edit A's edit stores.
    """
    found = {tuple(sorted(cell.items())): directory for directory, cell in cells}
    rows = []
    for a, b in pairs:
        own = [(directory, cell) for directory, cell in cells if cell["method"] == a]
        rival = partial(_same_place, found, b)
        rows += [{"a": a, "b": b, **row} for row in against(own, ("rank", "replay"), rival, _stored_ratio)]
    return adjusted(pd.DataFrame(rows), ["metric"]) if rows else pd.DataFrame()


def _same_place(found: Mapping[Any, str], method: str, cell: Mapping[str, str]) -> str | None:
    """The cell of a method with these coordinates, or with rank 0."""
    here = {**cell, "method": method}
    keys = [tuple(sorted(wanted.items())) for wanted in (here, here | {"rank": "0"})]
    return next((found[key] for key in keys if key in found), None)


def _stored_ratio(_: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Numbers that the first edits of the pairs store, over those of the second."""
    first, second = (sum(stored(directory)["parameters"] for directory in side) for side in zip(*pairs, strict=True))
    return {"stored_ratio": first / second if second else float("nan")}


def gain_finding(topic: str, row: Mapping[str, Any]) -> Finding:
    """A row of :func:`compare` in words; what stores more or less must say so: gains can be bought with parameters."""
    ratio, replay, source = float(row["stored_ratio"]), row["replay"], f"{topic}_gain"
    size = f"{ratio:.2g} times" if ratio > 1 else f"{percent(ratio)} of"
    stores = f" (storing {size} its numbers)" if abs(ratio - 1) > 0.02 else ""
    subject = f"{label(row['a'])} at rank {row['rank']}, in place of {label(row['b'])}{stores},"
    key = f"{topic}.{row['a']}_vs_{row['b']}_rank{row['rank']}" + (f"_replay{replay:g}" if replay else "")
    return difference_finding(key, row, subject, "S", source, f" with replay {replay:g}" if replay else "")
