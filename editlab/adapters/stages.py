"""The stages of one seed that measure: deltas and gates, references, retrieval; each gives whole tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from editlab.adapters.bench import Bench, Split, open_bench
from editlab.adapters.deltas import (
    Changes,
    DeltaCache,
    Probes,
    agreement,
    make_probes,
    probe_by_probe,
    seed_noise,
)
from editlab.adapters.pool import Pool
from editlab.adapters.predictor import (
    DeltaPredictor,
    delta_index,
    fit_predictor,
    hits,
    retrieved,
    searched,
    text_index,
)
from editlab.adapters.references import (
    best_single,
    fixed,
    mean_adapter,
    part_table,
    random_adapter,
    random_equal_norm,
)
from editlab.adapters.scoring import Scorer
from editlab.adapters.training_set import TrainingSet
from editlab.files.artifacts import write_csv, write_json

ORACLE = 16  # examples a task on which the best single adapter is chosen


def measure_deltas(bench: Bench, cache: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Deltas of the whole pool: their map, the ablation of pooling, and the gates.

    Returns:
        Rows of task, split, parts and the first two principal components; rows of a pooling with its reliability, seed
        cosine and text R2; the gates with what was measured.
    """
    split = bench.splits()[0]
    change = _changes(bench)
    deltas = bench.probes.pooled(change[bench.study.deltas.position])
    DeltaCache(cache, bench.probes).keep(bench.pool, bench.pool.names, deltas)
    train = [bench.pool.names.index(name) for name in split.train]
    centred = (deltas - deltas[train].mean(dim=0)).double()
    _, values, axes = torch.linalg.svd(centred[train], full_matrices=False)
    axes = axes * axes.sum(dim=1, keepdim=True).sign()  # a fixed sign
    plane = centred @ axes[:2].T
    share = values.square() / values.square().sum()
    rows = [
        {
            "seed": bench.seed,
            "adapter": name,
            "task": name.removesuffix("#2"),
            "split": bench.tasks[name.removesuffix("#2")].split,
            **{f"part_{i + 1}": part for i, part in enumerate(bench.tasks[name.removesuffix("#2")].parts)},
            "norm": float(deltas[i].norm()),
            "component_1": float(plane[i, 0]),
            "component_2": float(plane[i, 1]),
        }
        for i, name in enumerate(bench.pool.names)
    ]
    gates = _gates(bench, split, change) | {"components_share": float(share[:2].sum())}
    return pd.DataFrame(rows), _pooling(bench, split, change), gates


def _changes(bench: Bench) -> dict[str, Tensor]:
    """What the pool's adapters change on each probe (n, probes, d), by the place where it is looked at."""
    found: dict[str, Tensor] = {}
    for position in ("answer", "neutral"):  # the end of the prompt is the first place of the answer
        probes = _probes(bench, position)
        over, first = probe_by_probe(bench.model, probes, bench.pool.names, bench.pool.at)
        found |= {"answer": over, "prompt_end": first} if position == "answer" else {position: over}
    return found


def _probes(bench: Bench, position: str) -> Probes:
    """The probes of the study, looked at elsewhere."""
    options = bench.study.deltas.model_copy(update={"position": position})
    return make_probes(bench.model, bench.tasks, options, bench.seed)


def _pooling(bench: Bench, split: Split, change: Mapping[str, Tensor]) -> pd.DataFrame:
    """Every way to pool, on the same adapters."""
    rows = []
    for position, pool in (("answer", "mean"), ("answer", "concat"), ("prompt_end", "mean"), ("neutral", "mean")):
        options = bench.study.deltas.model_copy(update={"position": position, "pool": pool})
        way = dataclasses.replace(bench.probes, options=options)
        quality = _quality(bench, split, way, change[position])
        rows.append({"seed": bench.seed, "position": position, "pool": pool, **quality})
    return pd.DataFrame(rows)


def _quality(bench: Bench, split: Split, probes: Probes, change: Tensor) -> dict[str, float]:
    """Reliability, seed noise and what descriptions tell, from what the pool's adapters change on each probe."""
    place = {name: row for row, name in enumerate(bench.pool.names)}
    deltas = probes.pooled(change).double()
    train, validation, test = ([place[name] for name in part] for part in (split.train, split.validation, split.test))
    found = agreement(probes, change[train]) | seed_noise(bench.pool, deltas, split.train)
    found.pop("seed_weight_cosine", None)
    data = bench.data(split)

    def r2(penalty: float, names: Sequence[str], rows: list[int]) -> float:
        predicted = data.kernel.coefficients(data.text(names), penalty) @ deltas[train]
        spread = (deltas[rows] - deltas[train].mean(dim=0)).square().sum()
        return float(1 - (predicted - deltas[rows]).square().sum() / spread)

    # How much of the deltas of unseen tasks a description tells, at the penalty that is best on validation deltas.
    best = max(bench.study.coefficients.penalties, key=lambda p: r2(p, split.validation, validation))
    return found | {"text_r2": r2(best, split.test, test)}


def _gates(bench: Bench, split: Split, change: Mapping[str, Tensor]) -> dict[str, Any]:
    """What must hold before anything else is believed, with the limits and whether each holds."""
    limits, count = bench.study.gates, bench.study.scores.validation
    change_here = change[bench.study.deltas.position]
    rows = [bench.pool.names.index(name) for name in split.train]
    scorer = Scorer(bench.model, bench.tasks, bench.study.scores, bench.seed, count, "gates")
    seen, names = [*split.train, *split.validation], bench.tasks.names("train", "validation", "test")
    teachers = scorer.score(names, bench.pool.at)["exact"]
    prompted = scorer.score(seen, None, described=True)["exact"].mean()
    measured = {
        "prompted": float(prompted),
        "prompted_held_out": float(scorer.score(split.test, None, described=True)["exact"].mean()),
        "bare": float(scorer.score(names, None)["exact"].mean()),
        "teacher": float(teachers.mean()),
        "teachers": float((teachers >= limits.teacher).mean()),
        **agreement(bench.probes, change_here[rows]),
        **seed_noise(bench.pool, bench.probes.pooled(change_here), split.train),
    }
    holds = {
        "prompted": measured["prompted"] >= limits.prompted,
        "bare": measured["bare"] <= limits.bare,
        "teachers": measured["teachers"] >= limits.teachers,
        "reliability": measured["reliability"] >= limits.reliability,
    }
    return {"seed": bench.seed, "measured": measured, "limits": limits.model_dump(), "holds": holds}


def _another(pool: Pool, choice: Mapping[str, str]) -> Changes:
    """For each task the adapter of the one that was chosen for it."""
    return lambda names: pool.at([choice[name] for name in names])


def compare_references(bench: Bench, joint: Pool) -> pd.DataFrame:
    """Rows of every rival that learns nothing from descriptions, on both splits."""
    tables = []
    for split in bench.splits():
        data = bench.data(split)
        teachers, names, seed = bench.teacher_deltas(split.test), split.test, bench.seed
        text = searched(text_index(data, bench.study.retrieval.index), data.text(names), 1)
        nearest = {name: found[0][0] for name, found in zip(names, text, strict=True)}
        oracle = Scorer(bench.model, bench.tasks, bench.study.scores, seed, ORACLE, "oracle")
        best = best_single(data, names, oracle) if split.name == "combinations" else {}
        rivals: list[tuple[str, Changes | None, bool]] = [
            ("base", None, False),
            ("base, described", None, True),
            ("one LoRA for all tasks", fixed(joint, "joint"), False),
            ("one LoRA for all tasks, described", fixed(joint, "joint_prompted"), True),
            ("teacher", bench.pool.at, False),
            ("mean of all adapters", mean_adapter(data), False),
            ("random adapter", random_adapter(data, seed), False),
            ("random, equal norm", random_equal_norm(bench.pool, seed), False),
            ("nearest by text", _another(bench.pool, nearest), False),
        ]
        if best:
            rivals.append(("best single (oracle)", _another(bench.pool, best), False))
        for method, changes, described in rivals:
            tables.append(
                bench.row(
                    data, names, changes, teachers=None if described else teachers, described=described,
                    split=split.name, group="reference", method=method,
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def compare_retrieval(bench: Bench) -> tuple[pd.DataFrame, pd.DataFrame]:
    """B2a, B2b and B2w with their controls by text: rows of scores, and rows of what was retrieved."""
    options = bench.study.retrieval
    scores, found_rows, splits = [], [], bench.splits()
    first = splits[0]
    for split in splits:
        data, names = bench.data(split), split.test
        teachers, parts = bench.teacher_deltas(names), part_table(bench.tasks)
        predictor = fit_predictor(data, bench.study.coefficients.penalties, bench.validation, split.validation)
        predicted = predictor.predict(names)
        by_delta = (delta_index(data, data.train, data.deltas, options.index), predicted)
        queries = {
            "delta": by_delta,
            "text": (text_index(data, options.index), data.text(names)),
            "teacher's delta (oracle)": (by_delta[0], teachers.double()),
        }
        where: dict[str, Any] = {"split": split.name, "group": "retrieval"}
        sizes = options.k if split is first else options.k[-1:]  # the harder split: the most that are merged
        for query, (index, asked) in queries.items():
            for k in sizes:
                results = searched(index, asked, k)
                common = {"seed": bench.seed, "split": split.name, "index": "training", "query": query, "k": k}
                found_rows += [
                    {**common, "task": name, **hits(found, name, parts)}
                    for name, found in zip(names, results, strict=True)
                ]
                for weighing, temperature in (("uniform", None), ("softmax", options.temperature)):
                    if temperature and (k == 1 or query != "delta" or split is not first):
                        continue
                    changes = data.changes(names, retrieved(data, results, temperature))
                    method = f"B2b {query}, k = {k}, {weighing}"
                    scores.append(bench.row(data, names, changes, teachers=teachers, **where, method=method))
        changes = data.changes(names, predictor.coefficients(names))
        scores.append(bench.row(data, names, changes, teachers=teachers, **where, method="B2w"))
        rows, table = _unlabelled(bench, split, data, predictor)
        found_rows += rows
        scores.append(table)
    return pd.concat(scores, ignore_index=True), pd.DataFrame(found_rows)


def _unlabelled(
    bench: Bench, split: Split, data: TrainingSet, predictor: DeltaPredictor
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """B2a: the index also holds the test tasks' adapters, which the predictor never saw."""
    names, parts = split.test, part_table(bench.tasks)
    everyone = sorted({*data.train, *names})
    index = delta_index(data, everyone, bench.teacher_deltas(everyone), bench.study.retrieval.index)
    results = searched(index, predictor.predict(names), len(everyone))
    common = {"seed": bench.seed, "split": split.name, "index": "training and test", "query": "delta"}
    rows = [
        {**common, "k": len(everyone), "task": name, **hits(found, name, parts)}
        for name, found in zip(names, results, strict=True)
    ]
    first = {name: found[0][0] for name, found in zip(names, results, strict=True)}
    table = bench.row(
        data, names, lambda part: bench.pool.at([first[n] for n in part]), teachers=bench.teacher_deltas(names),
        split=split.name, group="retrieval", method="B2a",
    )  # fmt: skip
    return rows, table


def deltas_job(*, deltas: str, pooling: str, gates: str, known: str, **bench: Any) -> None:
    """The deltas of a pool, the ways to pool them, and the gates of the study; ``known``: the cache of deltas."""
    table, ways, held = measure_deltas(open_bench(**bench), known)
    write_csv(deltas, table)
    write_csv(pooling, ways)
    write_json(gates, held)


def references_job(*, joint: str, target: str, **bench: Any) -> None:
    """Scores of what a generated adapter must be held against."""
    write_csv(target, compare_references(open_bench(**bench), Pool.load(joint)))


def retrieval_job(*, scores: str, retrieved: str, **bench: Any) -> None:
    """Predicted deltas, the adapters that are retrieved by them, and their scores."""
    scored, found = compare_retrieval(open_bench(**bench))
    write_csv(scores, scored)
    write_csv(retrieved, found)
