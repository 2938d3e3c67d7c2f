"""Attacks on a model with the facts that the attacker knows: retraining all weights or a LoRA, prompting, a linear probe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.unlearning import OTHER_ATTACKS, Retraining, Scoring
from editlab.data.questions import Question, Split, halves, leave_one_out
from editlab.errors import DataError
from editlab.evaluation.choices import ChoiceScores, score_cloze, score_letters
from editlab.files.artifacts import write_csv
from editlab.networks.loading import tokenizer_of
from editlab.training.batches import question_rows, text_rows
from editlab.training.optimizers import optimizer_of
from editlab.training.parametrisation import lora, whole
from editlab.training.retraining import TokenRow, finetune, restored
from editlab.unlearning.facts import Facts
from editlab.unlearning.probing import probe
from editlab.unlearning.scores import metrics, score_questions
from editlab.unlearning.selection import NO_POINT
from editlab.unlearning.stage import Stage

ATTACKS = ("full", *OTHER_ATTACKS)
ATTACKED = ["v_split", "lr", "epoch", "set", "half", "metric", "value", "n"]  # columns of an attack
Part = tuple[str, str, list[Question]]  # set, half, questions
Scored = dict[str, ChoiceScores]


def attack_kept(
    directory: Path,
    load: Callable[[], Any],
    facts: Facts,
    held_out: Sequence[str],
    options: Retraining,
    scoring: Scoring,
    *,
    kind: str,
    seed: int,
) -> pd.DataFrame:
    """:func:`attack` on a kept model; no rows where there is none."""
    if (directory / NO_POINT).is_file():
        return pd.DataFrame(columns=ATTACKED)
    return attack(load(), facts, held_out, options, scoring, kind=kind, seed=seed)


def attack(
    model: Any, facts: Facts, held_out: Sequence[str], options: Retraining, scoring: Scoring, *, kind: str, seed: int
) -> pd.DataFrame:
    """Each split of ``held_out`` in turn is V and all others are T: retrain on T with every rate, score V after each epoch.

    Args:
        kind: ``full`` (all weights), ``lora`` (an adapter alone), ``prompt`` (facts of T shown in the prompt) or ``probe`` (a
            linear map from hidden states to answers, fitted to T and to what is retained; it has one score, whatever the
            measure).

    Returns:
        one row a (v_split, lr, epoch, set, half, metric), columns :data:`ATTACKED`: V in two halves, so that a rate can be
        chosen on one and reported on the other. Epoch 0 is the model as it came, which it is again afterwards. T and what is
        retained (``same``, ``other``) are scored before and at the end.

    Raises:
        DataError: an unknown kind or split.
    """
    if kind not in ATTACKS:
        raise DataError(f"attack: {kind!r} is not allowed; one of {', '.join(ATTACKS)}")
    pairs = [leave_one_out(facts.forget, name) for name in held_out]
    if kind == "prompt":
        frames = [_prompted(model, *pair, options, scoring, seed) for pair in pairs]
    elif kind == "probe":
        frames = [_probed(model, *pair, facts.retained, scoring, seed) for pair in pairs]
    else:
        questions = [q for s in [*facts.forget, *facts.retained] for q in s.questions]
        before = score_questions(model, questions, facts.dev, scoring)
        frames = [_retrained(model, facts, *pair, before, options, scoring, kind, seed) for pair in pairs]
    return pd.concat(frames, ignore_index=True)[ATTACKED]


def _retrained(
    model: Any,
    facts: Facts,
    told: Sequence[Split],
    secret: Split,
    before: Scored,
    options: Retraining,
    scoring: Scoring,
    kind: str,
    seed: int,
) -> pd.DataFrame:
    """The attack by training on ``told``; ``before``: scores of every question of the model as it came."""
    rows, frames = _told_rows(model, told, options), []
    secrets, others = _parts(facts, told, secret, seed)
    start = _looked(before, [q for s in [*facts.forget, *facts.retained] for q in s.questions], secrets + others)
    for lr in options.lrs if kind == "full" else options.lora_lrs:
        looked = [start.assign(epoch=0)]

        def look(epoch: int, looked: list[pd.DataFrame] = looked) -> None:
            parts = secrets + others if epoch == options.epochs else secrets
            questions = [q for _, _, chosen in parts for q in chosen]
            scores = score_questions(model, questions, facts.dev, scoring)
            looked.append(_looked(scores, questions, parts).assign(epoch=epoch))

        with _attacker(model, kind, options, seed) as (attacker, parameters):
            finetune(
                attacker,
                rows,
                epochs=options.epochs,
                batch=options.batch,
                lr=lr,
                seed=seed,
                optimizer=optimizer_of(options),
                parameters=parameters,
                after_epoch=look,
            )
        frames += [frame.assign(lr=lr, v_split=secret.name) for frame in looked]
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


def _parts(facts: Facts, told: Sequence[Split], secret: Split, seed: int) -> tuple[list[Part], list[Part]]:
    """The halves of V; T and the reported halves of what is retained."""
    secrets: list[Part] = [
        ("V", half, chosen) for half, chosen in zip(("first", "second"), halves(secret.questions, seed), strict=True)
    ]
    others: list[Part] = [("T", "all", [q for s in told for q in s.questions])]
    others += [
        (name, "report", [q for s in splits for q in halves(s.questions, seed)[1]])
        for name, splits in facts.sets.items()
        if name != "forget"
    ]
    return secrets, others


def _looked(scored: Scored, questions: Sequence[Question], parts: Sequence[Part]) -> pd.DataFrame:
    """The numbers of each part, from scores of ``questions`` in their order, which hold those of the parts."""
    place = {question: i for i, question in enumerate(questions)}
    rows = []
    for name, half, chosen in parts:
        where = [place[q] for q in chosen]
        for metric, value in metrics({k: s.take(where) for k, s in scored.items()}).items():
            rows.append({"set": name, "half": half, "metric": metric, "value": value, "n": len(chosen)})
    return pd.DataFrame(rows)


def _prompted(
    model: Any, told: Sequence[Split], secret: Split, options: Retraining, scoring: Scoring, seed: int
) -> pd.DataFrame:
    """The attack without training: answered questions of T before each question of V."""
    shown = [q for split in told for q in split.questions][: options.shots]

    def scored(chosen: Sequence[Question]) -> Scored:
        found = {"cloze": score_cloze(model, chosen, examples=shown)}
        if scoring.letters:
            found["letters"] = score_letters(model, chosen, examples=shown, rule=scoring.letter_rule)
        return found

    return _once(secret, scored, seed)


def _probed(
    model: Any, told: Sequence[Split], secret: Split, retained: Sequence[Split], scoring: Scoring, seed: int
) -> pd.DataFrame:
    """The attack without a change of the model or of the prompt: what a linear map reads off hidden states."""
    known = [q for split in [*told, *retained] for q in split.questions]
    measures = ("cloze", "letters") if scoring.letters else ("cloze",)

    def scored(chosen: Sequence[Question]) -> Scored:
        return dict.fromkeys(measures, probe(model, known, chosen))

    return _once(secret, scored, seed)


def _once(secret: Split, scored: Callable[[Sequence[Question]], Scored], seed: int) -> pd.DataFrame:
    """The rows of an attack that has no rates and no epochs."""
    rows = [
        {"set": "V", "half": half, "metric": metric, "value": value, "n": len(chosen)}
        for half, chosen in zip(("first", "second"), halves(secret.questions, seed), strict=True)
        for metric, value in metrics(scored(chosen)).items()
    ]
    return pd.DataFrame(rows).assign(lr=0.0, epoch=1, v_split=secret.name)


def attack_stage(
    *, given: Mapping[str, Any], splits: Sequence[str], options: Mapping[str, Any], kind: str, target: str
) -> None:
    """One kind of attack on one model, every split held out in turn."""
    stage, retraining = Stage(**given), Retraining.model_validate(options)
    place = Path(stage.model)
    table = attack_kept(
        place, stage.load, stage.known(), splits, retraining, stage.scored(), kind=kind, seed=stage.seed
    )
    write_csv(target, table)
