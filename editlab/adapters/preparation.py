"""What a seed of the study stands on, from its sections alone: tasks, the base, and the pools of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from editlab.adapters.pool import Pool, train_joint, train_own_pool, train_pool
from editlab.config.adapters import AdaptersStudy, FileTasks, TrainedBase
from editlab.data.tasks import TaskSet, letter_task_set, read_tasks
from editlab.files.artifacts import replace_directory, write_csv
from editlab.networks.loading import load_model
from editlab.randomness import set_threads
from editlab.training.instructed import train_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def task_set(study: AdaptersStudy, seed: int) -> TaskSet:
    """The tasks of a seed: each seed of the generated universe holds other combinations out."""
    if isinstance(study.tasks, FileTasks):
        return read_tasks(study.tasks.path)
    return letter_task_set(study.tasks.size, seed)


def load_base(study: AdaptersStudy, directory: str | Path) -> PreTrainedModel:
    """The base in a directory, as the study loads it."""
    hub = study.base
    if isinstance(hub, TrainedBase):
        return load_model(directory)
    return load_model(directory, dtype=hub.dtype, device_map=hub.device_map)


def make_base(study: AdaptersStudy, seed: int) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train the base of a seed: ``strict`` leaves the test combinations out."""
    assert isinstance(study.base, TrainedBase)
    tasks = task_set(study, seed)
    seen = tasks.of("train", "validation") if study.base.held_out == "strict" else list(tasks.tasks)
    return train_base(seen, study.base, seed)


def make_pools(study: AdaptersStudy, seed: int, base: str | Path, kind: str) -> Pool:
    """``shared`` A_0, ``own`` A_0 or the ``joint`` adapters of the base in a directory."""
    makers = {"shared": train_pool, "own": train_own_pool, "joint": train_joint}
    return makers[kind](load_base(study, base), task_set(study, seed), study.teachers, seed)


def base_job(*, study: Mapping[str, Any], seed: int, threads: int, base: str, training: str) -> None:
    """Train the base of a seed on descriptions of tasks; ``base``: its directory, ``training``: its log."""
    set_threads(threads)
    model, log = make_base(AdaptersStudy.model_validate(study), seed)
    with replace_directory(base) as directory:
        model.save_pretrained(directory)  # type: ignore[operator]
        model.tokenizer.save_pretrained(directory)  # type: ignore[union-attr, operator]
    write_csv(training, pd.DataFrame(log))


def pool_job(*, study: Mapping[str, Any], seed: int, threads: int, base: str, kind: str, target: str) -> None:
    """Train a pool of teachers; ``kind``: from a shared A_0, from their own, or one for all tasks."""
    set_threads(threads)
    make_pools(AdaptersStudy.model_validate(study), seed, base, kind).save(target)
