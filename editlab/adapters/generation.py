"""Train one generator, score it beside its shuffled control, check it for degenerate answers, and save what it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from editlab.adapters.bench import Bench, Split
from editlab.adapters.coefficients import delta_network, ridge_network
from editlab.adapters.deltas import Changes, cosine, deltas_of
from editlab.adapters.hyperconvolution import train_hyperconvolution
from editlab.adapters.losses import SUPERVISIONS
from editlab.adapters.references import shuffled
from editlab.adapters.training_set import TrainingSet
from editlab.algebra.linalg import Factors
from editlab.errors import ConfigError
from editlab.files.timing import Stopwatch
from editlab.networks.lora import write_adapter

DECODERS = ("coefficients", "hyperconvolution")
_COMMON = 0.99  # pairwise cosine of generated products above which they are one adapter


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """A trained generator.

    Attributes:
        changes: from tasks to their adapters, through the tasks' descriptions.
        log: rows of setting and validation letters.
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
    options = study.coefficients
    start = None
    if supervision != "deltas":
        start = ridge_network(data, options, bench.validation, validation)
    network = start
    if supervision != "weights":
        network = delta_network(data, options, bench.validation, validation, bench.seed, start)
    assert network is not None
    coefficients = network.coefficients
    return Generated(lambda names: data.weighted(coefficients(names)), network.log)


def generate(
    bench: Bench, decoder: str, supervision: str, directory: Path
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Train, score on held-out tasks, check, and write the adapters of the test tasks to ``directory``.

    Returns:
        Rows of scores (the generator and its shuffled control, on each split), the log of its choices, and the checks.
    """
    tables, logs, checks = [], [], {}
    for split in bench.splits() if (decoder, supervision) == ("coefficients", "weights") else bench.splits()[:1]:
        data = bench.data(split)
        made = train_generator(bench, data, split, decoder, supervision)
        swap = shuffled(split.test, bench.seed)
        controls: dict[str, Changes] = {
            "generator": made.changes,
            "shuffled": lambda part, m=made, s=swap: m.changes([s[n] for n in part]),  # type: ignore[misc]
        }
        found = {}
        for group, changes in controls.items():
            found[group] = bench.row(
                data, split.test, changes, teachers=bench.teacher_deltas(split.test),
                split=split.name, group=group, method=f"{decoder}, {supervision}",
                decoder=decoder, supervision=supervision,
            )  # fmt: skip
            tables.append(found[group])
        logs += [{"seed": bench.seed, "split": split.name, "decoder": decoder, "supervision": supervision, **row}
                 for row in made.log]  # fmt: skip
        if split.name == "combinations":
            checks = check(bench, data, split.test, made.changes, found["generator"], found["shuffled"])
            save(bench, split.test, made.changes, directory, decoder=decoder, supervision=supervision)
    return pd.concat(tables, ignore_index=True), pd.DataFrame(logs), checks


def products_of(adapters: Mapping[str, Any]) -> dict[str, Tensor]:
    """dW (C, d_out, d_in) by module name of stacked adapters, whatever their form."""
    return {k: v if isinstance(v, Tensor) else v[0] @ v[1] for k, v in adapters.items()}


@torch.no_grad()
def check(
    bench: Bench,
    data: TrainingSet,
    names: Sequence[str],
    changes: Changes,
    scores: pd.DataFrame,
    control: pd.DataFrame,
) -> dict[str, Any]:
    """Degenerate answers that a good-looking loss can hide; each a truth value, with the numbers behind it.

    ``zero`` and ``explosion``: the median norm against the teachers'. ``collapse``: one adapter for all, or descriptions
    that make no difference. ``delta_cheat``: deltas hit, tasks not. ``probe_overfit``: deltas hit on the supervising half of the
    probes alone.
    """
    own, teacher = (_flat(make(names)) for make in (changes, bench.pool.at))
    size = float(own.norm(dim=1).median() / teacher.norm(dim=1).median())
    alike, usual = _mean_cosine(own), _mean_cosine(teacher)
    gain, lost = float(scores["letters"].mean()), float(control["letters"].mean())
    base = float(bench.scorer.score(names, None)["letters"].mean())
    kept = (lost - base) / (gain - base) if gain > base else 1.0
    halves = []
    for probes in (data.seen, data.unseen):
        centre = deltas_of(bench.model, probes, data.train, bench.pool.at).mean(dim=0)
        found, wanted = (deltas_of(bench.model, probes, names, make) - centre for make in (changes, bench.pool.at))
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


def _flat(adapters: Mapping[str, Any]) -> Tensor:
    return torch.cat([p.flatten(1) for p in products_of(adapters).values()], dim=1)


def _mean_cosine(rows: Tensor) -> float:
    unit = torch.nn.functional.normalize(rows, dim=1)
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1))) if count > 1 else 1.0


@torch.no_grad()
def save(bench: Bench, names: Sequence[str], changes: Changes, directory: Path, **made: Any) -> None:
    """Write one PEFT adapter a task, ``directory/TASK``, exact: products are factored without a cut."""
    for name in names:
        factors = {}
        for key, change in changes([name]).items():
            if isinstance(change, Tensor):
                part = Factors.from_dense(change[0])
                factors[key] = (part.left, part.right)
            else:
                factors[key] = (change[0][0], change[1][0])
        write_adapter(directory / name, factors, bench.model, task=name, seed=bench.seed, **made)


def seconds(watch: Stopwatch) -> float:
    """Total of a stopwatch."""
    return float(sum(watch.seconds().values()))
