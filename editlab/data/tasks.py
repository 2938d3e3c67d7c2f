"""Tasks in words: descriptions, examples, and what each task is used for; generated on letters or read from a file.

The file is a JSON list, one object a task::

    {"name": "gsm8k-short", "split": "train", "parts": ["math", "short"],
     "descriptions": ["Solve the problem.", ...], "held_out_descriptions": [...],
     "train": [{"prompt": "...", "answer": "..."}, ...], "test": [{"prompt": "...", "answer": "..."}, ...]}

``split`` is train, validation or test; ``parts`` are what tasks may have in common, for hit rates of retrieval.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from editlab.data import letter_tasks
from editlab.errors import DataError, one_line

Pair = tuple[str, str]
SPLITS = ("train", "validation", "test")
USES = ("train", "probe", "test")
"""What an example is for: nothing is trained on those of ``probe`` and ``test``, nothing is scored on those of ``probe``."""


@dataclasses.dataclass(frozen=True)
class TextTask:
    """One task.

    Attributes:
        parts: what it may share with other tasks, in a fixed order.
        descriptions: wordings of training; ``held_out`` are those that nothing is trained on.
        draw: (count, rng, use) to as many (prompt, answer) pairs, for one of :data:`USES`. In a file of tasks the probes are
            the test examples, so only those of training tasks should be asked for.
    """

    name: str
    split: str
    parts: tuple[str, ...]
    descriptions: tuple[str, ...]
    held_out: tuple[str, ...]
    draw: Callable[[int, random.Random, str], list[Pair]]

    def asked(self, pairs: Sequence[Pair], description: str) -> list[Pair]:
        """The pairs with a description before the prompt."""
        return [(f"{description} {prompt}", answer) for prompt, answer in pairs]


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """All tasks of a study; ``ends``: answers are closed by the end token."""

    tasks: tuple[TextTask, ...]
    ends: bool

    def of(self, *splits: str) -> list[TextTask]:
        """Tasks of these splits, in order."""
        return [task for task in self.tasks if task.split in splits]

    def names(self, *splits: str) -> list[str]:
        return [task.name for task in self.of(*splits)]

    def __getitem__(self, name: str) -> TextTask:
        return next(task for task in self.tasks if task.name == name)


def letter_task_set(size: str, seed: int) -> TaskSet:
    """The generated universe with its Latin split."""
    split = letter_tasks.latin_split(letter_tasks.task_grid(size), seed)
    where = {task: name for name in SPLITS for task in getattr(split, name)}
    return TaskSet(tuple(_letter_task(t, where[t]) for t in letter_tasks.task_grid(size)), ends=False)


def _letter_task(task: letter_tasks.Task, split: str) -> TextTask:
    def draw(count: int, rng: random.Random, use: str) -> list[Pair]:
        found: list[Pair] = []
        while len(found) < count:
            for string, answer in letter_tasks.examples(task, count, rng):
                if _use(string) == use and len(found) < count:
                    found.append((letter_tasks.question(string), " ".join(letter_tasks.spelled(answer))))
        return found

    return TextTask(
        task.name,
        split,
        tuple(task.name.split(".")),
        tuple(task.descriptions()),
        tuple(task.descriptions(held_out=True)),
        draw,
    )


def _use(string: Sequence[int]) -> str:
    """What a string is for: a tenth are probes, a tenth for tests, spread evenly over every letter at every place."""
    return {3: "probe", 7: "test"}.get(sum(string) % 10, "train")


def read_tasks(path: str | Path) -> TaskSet:
    """Tasks from a JSON file.

    Raises:
        DataError: missing, not JSON, an unknown split, no training or test task, or a task without texts; names the file
            and the record.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file of tasks ({one_line(error)})") from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: must be a list of tasks, and not empty")
    tasks = tuple(_read_task(record, f"{path}: record {i}") for i, record in enumerate(records))
    if len({t.name for t in tasks}) < len(tasks):
        raise DataError(f"{path}: two tasks have the same name")
    for split in SPLITS:
        if not any(t.split == split for t in tasks):
            raise DataError(f"{path}: no task has split {split!r}; one or more are needed")
    return TaskSet(tasks, ends=True)


def _read_task(record: Any, where: str) -> TextTask:
    try:
        name, split = str(record["name"]), record["split"]
        words, held_out = _texts(record["descriptions"]), _texts(record["held_out_descriptions"])
        train, test = _pairs(record["train"]), _pairs(record["test"])
        parts = tuple(str(part) for part in record.get("parts", []))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{where}: {one_line(error)} is missing or empty, or is no text") from None
    if split not in SPLITS:
        raise DataError(f"{where}: split {split!r} is not allowed; one of {', '.join(SPLITS)}")
    if set(train) & set(test):
        raise DataError(f"{where} ({name!r}): an example is in train and in test")

    def draw(count: int, rng: random.Random, use: str) -> list[Pair]:
        if use == "train":
            return rng.choices(train, k=count)
        return rng.sample(test, count) if count <= len(test) else rng.choices(test, k=count)

    return TextTask(name, split, parts, words, held_out, draw)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError("a list of texts")
    return tuple(values)


def _pairs(values: Any) -> list[Pair]:
    if not values:
        raise ValueError("a list of examples")
    pairs = [(value["prompt"], value["answer"]) for value in values]
    _texts([text for pair in pairs for text in pair])
    return pairs
