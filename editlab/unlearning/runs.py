"""Unlearning as jobs: a point of a grid, scored after every epoch, and a chosen point, kept as a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.unlearning import Method, Scoring
from editlab.errors import ModelError
from editlab.files.artifacts import write_csv, write_json
from editlab.networks.loading import load_model
from editlab.training.batches import collate, text_rows
from editlab.training.objectives import FORMS
from editlab.training.parametrisation import Trainable, save_checkpoint
from editlab.training.unlearning import UnlearningTexts, divergence, unlearn
from editlab.unlearning.facts import Facts
from editlab.unlearning.scores import score_model
from editlab.unlearning.selection import NO_POINT
from editlab.unlearning.stage import Stage

Neutral = Mapping[str, Sequence[str]]  # "training" and "held_out" sentences


def texts_of(facts: Facts, method: Method, neutral: Neutral) -> UnlearningTexts:
    """What a method reads: texts of its objective's form to forget; true texts and neutral sentences to retain."""
    form = FORMS.get(method.objective.name, "corpus")
    return UnlearningTexts(
        forget=[split.texts(form) for split in facts.forget],
        truth=[split.texts("corpus") for split in facts.forget],
        retain=[text for split in facts.retained for text in split.texts("corpus")]
        + list(neutral["training"][: method.neutral]),
        neutral=neutral["held_out"],
    )


def run_unlearning(
    model: Any,
    facts: Facts,
    neutral: Neutral,
    method: Method,
    scoring: Scoring,
    *,
    rank: int,
    lr: float,
    retain: float,
    seed: int,
) -> pd.DataFrame:
    """One point of the grid: scores before the first step and after every epoch.

    Returns:
        the columns of :func:`~editlab.unlearning.scores.score_model` with ``epoch`` and ``ended`` (why training ended early, on
        the rows of the last epoch that was scored; empty otherwise).
    """
    frames: list[pd.DataFrame] = []

    def look(epoch: int, trainable: Trainable) -> None:
        frames.append(_scores_at(epoch, trainable, facts, neutral["held_out"], scoring, seed))

    _, course = unlearn(
        model, texts_of(facts, method, neutral), method, rank=rank, lr=lr, retain=retain, seed=seed, after_epoch=look
    )
    frames[-1]["ended"] = course.ended or ""
    return pd.concat(frames, ignore_index=True)


def _scores_at(
    epoch: int, trainable: Trainable, facts: Facts, neutral: Sequence[str], scoring: Scoring, seed: int
) -> pd.DataFrame:
    model: Any = trainable.model
    plain = model.base_model.model if trainable.is_lora else model  # peft has put its maps into the model itself
    plain.tokenizer = model.tokenizer
    frame = score_model(plain, facts, neutral, scoring, seed)
    if neutral:
        pad_id = int(model.tokenizer.pad_token_id or 0)
        batches = [collate(text_rows(model.tokenizer, neutral), pad_id, plain.device)]
        row = ("neutral", "neutral", "all", "kl", divergence(trainable, batches), len(neutral))
        frame = pd.concat([frame, pd.DataFrame([row], columns=frame.columns)], ignore_index=True)
    return frame.assign(epoch=epoch, ended="")


def keep_point(
    load: Callable[[], Any],
    facts: Facts,
    neutral: Neutral,
    method: Method,
    scoring: Scoring,
    directory: Path,
    point: Mapping[str, Any] | None,
    *,
    rank: int,
    seed: int,
) -> pd.DataFrame:
    """Make a chosen point again, save it as a Hugging Face directory, and score what is loaded from there.

    Training is deterministic, so a grid need not keep a model for each of its epochs.

    Args:
        load: gives the model before unlearning.
        point: lr, retain and epoch; None where nothing was admissible: the directory then holds :data:`NO_POINT` alone.

    Returns:
        the scores of the reloaded model (a LoRA merged); no rows without a point.

    Raises:
        ModelError: an accuracy moved by more than one question on the way through the file.
    """
    if point is None:
        write_json(directory / NO_POINT, {"reason": "no run of the grid has an admissible epoch"})
        return pd.DataFrame(columns=["set", "split", "half", "metric", "value", "n"])
    epoch = int(point["epoch"])
    trainable, _ = unlearn(
        load(),
        texts_of(facts, method, neutral),
        method,
        rank=rank,
        lr=point["lr"],
        retain=point["retain"],
        seed=seed,
        stop_after=epoch,
    )
    before = _scores_at(epoch, trainable, facts, neutral["held_out"], scoring, seed)
    save_checkpoint(trainable, directory)
    after = score_model(load_model(directory), facts, neutral["held_out"], scoring, seed)
    check_reloaded(before, after, directory)
    return after


def check_reloaded(before: pd.DataFrame, after: pd.DataFrame, where: str | Path) -> None:
    """Raise :class:`ModelError` when the accuracy of a split differs by more than one question."""
    keys = ["set", "split", "half", "metric"]
    both = before.merge(after, on=keys, suffixes=("", "_after"))
    both = both[both["metric"].isin(["letters", "cloze"])]
    moved = (both["value"] - both["value_after"]).abs() * both["n"]
    if len(both) and moved.max() > 1 + 1e-9:
        row = both.iloc[int(moved.argmax())]
        raise ModelError(
            f"{where}: {row['metric']} of {row['split']} is {row['value']:.3f} in memory and {row['value_after']:.3f} after "
            "reloading; the saved dtype swallows the update"
        )


def unlearn_stage(
    *, given: Mapping[str, Any], method: Mapping[str, Any], rank: int, lr: float, retain: float, target: str
) -> None:
    """One point of a grid."""
    stage = Stage(**given)
    scores = run_unlearning(
        stage.load(),
        stage.known(),
        stage.neutral(),
        Method.model_validate(method),
        stage.scored(),
        rank=rank,
        lr=lr,
        retain=retain,
        seed=stage.seed,
    )
    write_csv(target, scores)


def keep_stage(
    *,
    given: Mapping[str, Any],
    chosen: str,
    point: str,
    method: Mapping[str, Any],
    rank: int,
    directory: str,
    target: str,
) -> None:
    """The model of a chosen point, and the scores of what is loaded from its file."""
    stage = Stage(**given)
    scores = keep_point(
        stage.load,
        stage.known(),
        stage.neutral(),
        Method.model_validate(method),
        stage.scored(),
        Path(directory),
        json.loads(Path(chosen).read_text(encoding="utf-8"))[point],
        rank=rank,
        seed=stage.seed,
    )
    write_csv(target, scores)
