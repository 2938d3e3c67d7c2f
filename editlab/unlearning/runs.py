"""The stages of a study, each from objects to a table or a model: learn, unlearn, keep a chosen point, attack."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.unlearning import Learning, Method, Retraining, Scoring
from editlab.data.questions import Question, Split, halves, leave_one_out
from editlab.errors import DataError, ModelError
from editlab.evaluation.choices import score_cloze, score_letters
from editlab.files.artifacts import write_json
from editlab.networks.loading import load_model, tokenizer_of
from editlab.training.answering import learn
from editlab.training.batches import collate, question_rows, text_rows
from editlab.training.objectives import FORMS
from editlab.training.optimizers import optimizer_of
from editlab.training.parametrisation import Trainable, lora, save_checkpoint, whole
from editlab.training.retraining import TokenRow, finetune, restored
from editlab.training.unlearning import UnlearningTexts, divergence, unlearn
from editlab.unlearning.facts import Facts
from editlab.unlearning.scores import metrics, score_model, score_questions

ATTACKS = ("full", "lora", "prompt")
NO_POINT = "no_point.json"  # in the place of a model, where no point was admissible


def texts_of(facts: Facts, method: Method, neutral: Sequence[str]) -> UnlearningTexts:
    """What a method reads: texts of its objective's form to forget, true texts to retain."""
    form = FORMS.get(method.objective.name, "corpus")
    return UnlearningTexts(
        forget=[split.texts(form) for split in facts.forget],
        truth=[split.texts("corpus") for split in facts.forget],
        retain=[text for split in facts.retained for text in split.texts("corpus")],
        neutral=neutral,
    )


def run_unlearning(
    model: Any,
    facts: Facts,
    neutral: Sequence[str],
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
        frames.append(_scores_at(epoch, trainable, facts, neutral, scoring, seed))

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
        batches = [collate(text_rows(model.tokenizer, neutral), int(model.tokenizer.pad_token_id or 0))]
        row = ("neutral", "neutral", "all", "kl", divergence(trainable, batches), len(neutral))
        frame = pd.concat([frame, pd.DataFrame([row], columns=frame.columns)], ignore_index=True)
    return frame.assign(epoch=epoch, ended="")


def keep_point(
    load: Callable[[], Any],
    facts: Facts,
    neutral: Sequence[str],
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
    before = _scores_at(epoch, trainable, facts, neutral, scoring, seed)
    save_checkpoint(trainable, directory)
    after = score_model(load_model(directory), facts, neutral, scoring, seed)
    check_reloaded(before, after, directory)
    return after


def attack_kept(
    directory: Path,
    load: Callable[[], Any],
    facts: Facts,
    held_out: str,
    options: Retraining,
    scoring: Scoring,
    *,
    kind: str,
    seed: int,
) -> pd.DataFrame:
    """:func:`attack` on a kept model; no rows where there is none."""
    if (directory / NO_POINT).is_file():
        return pd.DataFrame(columns=["set", "half", "metric", "value", "n", "lr", "epoch"])
    return attack(load(), facts, held_out, options, scoring, kind=kind, seed=seed)


def learned(model: Any, facts: Facts, options: Learning, seed: int, *, lower_half: bool = False) -> Any:
    """The model that knows the facts to forget.

    Raises:
        ModelError: it does not know enough of them.
    """
    learn(model, facts.forget, facts.retained, options, seed, lower_half=lower_half)
    questions = [q for split in facts.forget for q in split.questions]
    known = score_cloze(model, questions).accuracy
    if known < options.gate:
        raise ModelError(
            f"learn: the model knows {known:.2f} of the facts to forget, below gate {options.gate}; raise epochs "
            f"({options.epochs}) or lr ({options.lr})"
        )
    return model


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


def attack(
    model: Any, facts: Facts, held_out: str, options: Retraining, scoring: Scoring, *, kind: str, seed: int
) -> pd.DataFrame:
    """Retrain on T with every rate and score V, T and what is retained after each epoch; the model comes back unchanged.

    Args:
        kind: ``full`` (all weights), ``lora`` (an adapter alone) or ``prompt`` (facts of T shown in the prompt).

    Returns:
        one row a (lr, epoch, set, half, metric): ``set`` V, T, same or other; V is halved so that a rate can be chosen on one
        half and reported on the other. Epoch 0 is the model as it came.
    """
    if kind not in ATTACKS:
        raise DataError(f"attack: {kind!r} is not allowed; one of {', '.join(ATTACKS)}")
    told, secret = leave_one_out(facts.forget, held_out)
    if kind == "prompt":
        return _prompted(model, told, secret, options, scoring, seed)
    frames = []
    for lr in options.lrs if kind == "full" else options.lora_lrs:
        with _attacker(model, kind, options, seed) as (attacker, parameters):
            looked = [_looked(model, facts, told, secret, scoring, seed).assign(lr=lr, epoch=0)]

            def look(epoch: int, lr: float = lr, looked: list[pd.DataFrame] = looked) -> None:
                looked.append(_looked(model, facts, told, secret, scoring, seed).assign(lr=lr, epoch=epoch))

            finetune(
                attacker,
                _told_rows(model, told, options),
                epochs=options.epochs,
                batch=options.batch,
                lr=lr,
                seed=seed,
                optimizer=optimizer_of(options),
                parameters=parameters,
                after_epoch=look,
            )
            frames += looked
    return pd.concat(frames, ignore_index=True)


def _told_rows(model: Any, told: Sequence[Split], options: Retraining) -> list[TokenRow]:
    tokenizer = tokenizer_of(model)
    if options.loss == "corpus":
        return text_rows(tokenizer, [t for split in told for t in split.texts("corpus")])
    return question_rows(tokenizer, [q for split in told for q in split.questions], options.loss)


@contextlib.contextmanager
def _attacker(model: Any, kind: str, options: Retraining, seed: int) -> Iterator[tuple[Any, list[Any]]]:
    """What is trained in an attack, and its parameters; on leaving, the model is as it was."""
    if kind == "full":
        with restored(model):
            yield model, list(whole(model).parameters.values())
        return
    adapter = lora(model, options.lora_rank, seed)
    try:
        yield adapter.model, list(adapter.parameters.values())
    finally:
        adapter.model.unload()  # type: ignore[operator]


def _looked(
    model: Any, facts: Facts, told: Sequence[Split], secret: Split, scoring: Scoring, seed: int
) -> pd.DataFrame:
    first, second = halves(secret.questions, seed)
    parts = [("V", "first", first), ("V", "second", second), ("T", "all", [q for s in told for q in s.questions])]
    parts += [
        (name, "report", [q for s in splits for q in halves(s.questions, seed)[1]])
        for name, splits in facts.sets.items()
        if name != "forget"
    ]
    return _rows(model, parts, facts.dev, scoring)


def _rows(
    model: Any, parts: Sequence[tuple[str, str, list[Question]]], dev: Sequence[Question], scoring: Scoring
) -> pd.DataFrame:
    scored = score_questions(model, [q for _, _, chosen in parts for q in chosen], dev, scoring)
    rows, start = [], 0
    for name, half, chosen in parts:
        where = range(start, start + len(chosen))
        start += len(chosen)
        for metric, value in metrics({k: s.take(where) for k, s in scored.items()}).items():
            rows.append({"set": name, "half": half, "metric": metric, "value": value, "n": len(chosen)})
    return pd.DataFrame(rows)


def _prompted(
    model: Any, told: Sequence[Split], secret: Split, options: Retraining, scoring: Scoring, seed: int
) -> pd.DataFrame:
    """The attack without training: answered questions of T before each question of V."""
    shown = [q for split in told for q in split.questions][: options.shots]
    rows = []
    for half, chosen in zip(("first", "second"), halves(secret.questions, seed), strict=True):
        scored = {
            "letters": score_letters(model, chosen, examples=shown, rule=scoring.letter_rule),
            "cloze": score_cloze(model, chosen, examples=shown),
        }
        for metric, value in metrics(scored).items():
            rows.append({"set": "V", "half": half, "metric": metric, "value": value, "n": len(chosen)})
    return pd.DataFrame(rows).assign(lr=0.0, epoch=1)
