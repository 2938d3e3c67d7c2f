"""Train one generator, score what it makes beside its shuffled control, check it for degenerate answers, export adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from editlab.adapters.bench import Bench, Split, open_bench
from editlab.adapters.coefficients import delta_network, ridge_network
from editlab.adapters.deltas import Changes, cosine, deltas_of
from editlab.adapters.hyperconvolution import train_hyperconvolution
from editlab.adapters.losses import SUPERVISIONS, product_norms
from editlab.adapters.pool import Pool, cut, likeness, weights_digest
from editlab.adapters.references import shuffled
from editlab.adapters.training_set import TrainingSet
from editlab.edits.peft import write_adapter
from editlab.errors import ConfigError, ModelError
from editlab.files.artifacts import write_csv, write_json
from editlab.networks.lora import Factored

DECODERS = ("coefficients", "hyperconvolution")
_COMMON = 0.99  # pairwise cosine of generated products above which they are one adapter


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """A trained generator.

    Attributes:
        changes: from tasks to their adapters, through the tasks' descriptions.
        log: rows of what was tried, with the validation letters that decided.
    """

    changes: Changes
    log: list[dict[str, float]]


def train_generator(bench: Bench, data: TrainingSet, split: Split, decoder: str, supervision: str) -> Generated:
    """One of :data:`DECODERS` under one of :data:`~editlab.adapters.losses.SUPERVISIONS`.

    Raises:
        ConfigError: an unknown decoder or supervision.
    """
    if decoder not in DECODERS or supervision not in SUPERVISIONS:
        raise ConfigError(f"generator {decoder!r} by {supervision!r} is not allowed; {DECODERS} by {SUPERVISIONS}")
    study, validation = bench.study, split.validation
    if decoder == "hyperconvolution":
        made = train_hyperconvolution(
            data, study.hyperconvolution, supervision, bench.validation, validation, bench.seed
        )
        return Generated(made.changes, made.log)
    options, scorer = study.coefficients, bench.validation
    if supervision == "weights":
        network = ridge_network(data, options, scorer, validation)
    else:
        network = delta_network(data, options, scorer, validation, bench.seed, weights=supervision == "both")
    coefficients = network.coefficients
    return Generated(lambda names: data.weighted(coefficients(names)), network.log)


def generate(bench: Bench, decoder: str, supervision: str) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any], Pool]:
    """Train, make the adapters of the held-out tasks at the teachers' rank, score them, and check them.

    What is scored is what is saved: sums of products are cut to the rank of one teacher.

    Returns:
        Rows of scores (the generator and its control with shuffled descriptions, on each split), the log of its choices,
        the checks, and the adapters of the test tasks.
    """
    tables, logs, checks = [], [], {}
    first, *others = bench.splits()
    pools = []
    for split in [first, *(others if (decoder, supervision) == ("coefficients", "weights") else [])]:
        data = bench.data(split)
        made = train_generator(bench, data, split, decoder, supervision)
        adapters = Pool(split.test, cut(made.changes(split.test), bench.study.teachers.rank), bench.pool.base)
        swap = shuffled(split.test, bench.seed)
        found = {}
        for group, source in (("generator", {n: n for n in split.test}), ("shuffled", swap)):
            found[group] = bench.row(
                data, split.test, lambda part, a=adapters, s=source: a.at([s[n] for n in part]),  # type: ignore[misc]
                teachers=bench.teacher_deltas(split.test), split=split.name, group=group,
                method=f"{decoder}, {supervision}", decoder=decoder, supervision=supervision,
            )  # fmt: skip
            tables.append(found[group])
        names = {"seed": bench.seed, "split": split.name, "decoder": decoder, "supervision": supervision}
        logs += [{**names, **row} for row in made.log]
        if split is first:
            checks = {**names, **check(bench, data, adapters, found["generator"], found["shuffled"])}
        pools.append(adapters)
    return pd.concat(tables, ignore_index=True), pd.DataFrame(logs), checks, pools[0]


@torch.no_grad()
def check(
    bench: Bench,
    data: TrainingSet,
    made: Pool,
    scores: pd.DataFrame,
    control: pd.DataFrame,
) -> dict[str, Any]:
    """Degenerate answers that a good-looking loss can hide; each a truth value, with the numbers behind it.

    ``zero`` and ``explosion``: the median norm against the teachers'. ``collapse``: one adapter for all, or descriptions
    that make no difference. ``delta_cheat``: deltas hit, tasks not. ``probe_overfit``: deltas hit on the supervising half of the
    probes alone.
    """
    names = made.names
    own, teacher = (pool.at(names) for pool in (made, bench.pool))
    size = float(product_norms(own).median() / product_norms(teacher).median())
    alike, usual = _mean_cosine(own), _mean_cosine(teacher)
    gain, lost = float(scores["letters"].mean()), float(control["letters"].mean())
    base = float(bench.scorer.score(names, None)["letters"].mean())
    kept = (lost - base) / (gain - base) if gain > base else 1.0
    halves = []
    for probes in (data.seen, data.unseen):
        centre = deltas_of(bench.model, probes, data.train, bench.pool.at).mean(dim=0)
        found, wanted = (deltas_of(bench.model, probes, names, make) - centre for make in (made.at, bench.pool.at))
        halves.append(float(cosine(found, wanted).mean()))
    return {
        "relative_norm": size,
        "likeness": alike,
        "kept_when_shuffled": kept,
        "seen_probe_cosine": halves[0],
        "unseen_probe_cosine": halves[1],
        "zero": size < 0.01,
        "explosion": not size < 10,
        "collapse": (alike > _COMMON and usual < 0.9) or kept > 0.9,
        "delta_cheat": float(scores["delta_cosine"].mean()) > 0.8 and gain <= base,
        "probe_overfit": halves[0] - halves[1] > 0.2,
    }


def _mean_cosine(factors: Factored) -> float:
    """Mean cosine of the products of different adapters."""
    cosines = likeness(factors)
    count = len(cosines)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))) if count > 1 else 1.0


def export(pool: Pool, name: str, model: nn.Module, directory: str | Path) -> None:
    """Write one adapter of a pool for plain PEFT.

    Raises:
        ConfigError: the pool has no such adapter.
        ModelError: the pool belongs to another base.
    """
    if name not in pool.names:
        raise ConfigError(f"adapter {name!r} is not in the pool; it has {', '.join(pool.names)}")
    if pool.base != weights_digest(model):
        raise ModelError(f"adapter {name!r} was made for another base than the model given")
    write_adapter(pool.adapter(name), directory, model)


def generator_job(
    *, decoder: str, supervision: str, scores: str, choices: str, checks: str, adapters: str, **bench: Any
) -> None:
    """A generator trained, scored and checked, and the adapters that it makes for the held-out tasks."""
    scored, chosen, checked, made = generate(open_bench(**bench), decoder, supervision)
    write_csv(scores, scored)
    write_csv(choices, chosen)
    write_json(checks, checked)
    made.save(adapters)
