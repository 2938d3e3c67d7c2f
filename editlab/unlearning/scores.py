"""The scores of one model on all sets of a study, as rows of a table.

Columns: ``set`` (forget, same, other, neutral), ``split``, ``half`` (retained questions are halved by seed: a point is chosen on
``select``, reported on ``report``; forgotten ones are ``all``), ``metric``, ``value``, ``n``. Metrics: ``letters`` and ``cloze``
(accuracies), ``letters_calibrated``, ``letter_entropy`` (bits), and on neutral text ``perplexity`` and ``kl`` (nats a token).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from editlab.config.unlearning import Scoring
from editlab.data.questions import Question, Split, halves
from editlab.evaluation.choices import ChoiceScores, score_cloze, score_letters
from editlab.evaluation.perplexity import perplexity
from editlab.unlearning.facts import Facts

Rows = list[dict[str, Any]]


def score_model(model: Any, facts: Facts, neutral: Sequence[str], options: Scoring, seed: int) -> pd.DataFrame:
    """Score a model on every split of every set, and on neutral text."""
    rows: Rows = []
    parts = [
        (name, split, half, chosen) for name, split in _splits(facts) for half, chosen in _halved(name, split, seed)
    ]
    questions = [q for _, _, _, chosen in parts for q in chosen]
    scored = score_questions(model, questions, facts.dev, options)
    start = 0
    for name, split, half, chosen in parts:
        where = range(start, start + len(chosen))
        start += len(chosen)
        for metric, value in metrics({k: s.take(where) for k, s in scored.items()}).items():
            rows.append(
                {"set": name, "split": split.name, "half": half, "metric": metric, "value": value, "n": len(chosen)}
            )
    if neutral:
        found = {"set": "neutral", "split": "neutral", "half": "all", "metric": "perplexity", "n": len(neutral)}
        rows.append({**found, "value": perplexity(model, neutral)})
    return pd.DataFrame(rows, columns=["set", "split", "half", "metric", "value", "n"])


def score_questions(
    model: Any, questions: Sequence[Question], dev: Sequence[Question], options: Scoring
) -> dict[str, ChoiceScores]:
    """Letters (unless they are left out) and cloze of all questions, each batched as one set."""
    found = {"cloze": score_cloze(model, questions)}
    if options.letters:
        found["letters"] = score_letters(model, questions, examples=dev[: options.k_shot], rule=options.letter_rule)
    return found


def metrics(scored: dict[str, ChoiceScores]) -> dict[str, float]:
    """The numbers of some questions."""
    found = {"cloze": scored["cloze"].accuracy}
    if letters := scored.get("letters"):
        found |= {
            "letters": letters.accuracy,
            "letters_calibrated": letters.calibrated_accuracy,
            "letter_entropy": letters.letter_entropy,
        }
    return found


def _splits(facts: Facts) -> list[tuple[str, Split]]:
    return [(name, split) for name, splits in facts.sets.items() for split in splits]


def _halved(name: str, split: Split, seed: int) -> list[tuple[str, list[Question]]]:
    if name == "forget" or len(split.questions) < 2:
        return [("all", list(split.questions))]
    select, report = halves(split.questions, seed)
    return [("select", select), ("report", report)]
