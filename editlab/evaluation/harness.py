"""General ability by tasks of lm-evaluation-harness (EleutherAI), before and after an edit.

The package ``lm_eval`` is an optional extra (``pip install 'editlab[harness]'``). Tasks are named as there, a directory of
local task files may be added, and the model is the object in memory, so that an edited one needs no copy on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.errors import ConfigError, ModelError, one_line
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.lookup import lookups_on

RESAMPLES = 1000
"""Of metrics without a standard error in closed form. With 0 the harness gives none at all, not even of a mean."""

COLUMNS = ["task", "metric", "value", "stderr", "n"]


def run_tasks(
    model: Any,
    tasks: Sequence[str],
    *,
    task_folder: str | Path | None = None,
    limit: int | None = None,
    fewshot: int | None = None,
    batch: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model on tasks by name.

    Args:
        model: a causal language model with its tokenizer; it is given back unchanged.
        tasks: names of tasks or groups, e.g. ``arc_challenge``.
        task_folder: directory of local task files to search beside the package's own.
        limit: items a task, the first ones; the same items before and after an edit, so that differences are paired.
        fewshot: examples before an item; default: what the task says.

    Returns:
        columns task, metric, value, stderr, n (items).

    Raises:
        ConfigError: the package is missing, no task is named, or one is unknown; or the model has a memory that is read at
            the prompt's end, which a task does not tell: it runs prompt and answer as one text.
        ModelError: the model has no tokenizer, or a task cannot be run on it.
    """
    if not tasks:
        raise ConfigError("tasks: none given; name at least one, e.g. arc_challenge")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ConfigError("tasks: they need the package lm_eval: pip install 'editlab[harness]'") from None
    if any(lookup.memory.live.size and not lookup.memory.everywhere for lookup in lookups_on(Architecture(model))):
        raise ConfigError(
            "tasks: a memory with lookup 'prompt' would not be read, since tasks do not say where a prompt ends; "
            "use lookup 'everywhere' or 'subject'"
        )
    manager = TaskManager(include_path=str(task_folder) if task_folder else None)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise ConfigError(f"tasks: {unknown[0]!r} is not a task of lm_eval (task_folder: {task_folder})")
    with frozen(model):
        network = HFLM(pretrained=model, tokenizer=tokenizer_of(model), batch_size=batch)
        try:
            found = simple_evaluate(
                model=network,
                tasks=list(tasks),
                task_manager=manager,
                num_fewshot=fewshot,
                limit=limit,
                bootstrap_iters=RESAMPLES,
                log_samples=False,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except Exception as error:
            raise ModelError(f"tasks {', '.join(tasks)}: cannot be run ({one_line(error)})") from error
    return _table(found["results"], found.get("n-samples", {}))


def _table(results: dict[str, dict[str, Any]], samples: dict[str, dict[str, int]]) -> pd.DataFrame:
    """One row a (task, metric); the harness names metrics ``acc,none`` and their errors ``acc_stderr,none``."""
    rows = []
    for task in sorted(results):
        for name, value in sorted(results[task].items()):
            metric, _, kind = name.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = results[task].get(f"{metric}_stderr,{kind}")
                stderr = float(error) if isinstance(error, int | float) else float("nan")
                rows.append((task, metric, float(value), stderr, samples.get(task, {}).get("effective", 0)))
    return pd.DataFrame(rows, columns=COLUMNS)
