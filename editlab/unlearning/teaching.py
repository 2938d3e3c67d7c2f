"""The models before unlearning: one that never knew the facts, and one that has learned them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.unlearning import Learning, QuestionModel
from editlab.errors import ModelError
from editlab.evaluation.choices import score_cloze
from editlab.files.artifacts import write_csv
from editlab.networks.loading import load_model
from editlab.randomness import set_threads
from editlab.training.answering import learn, train_answerer
from editlab.training.parametrisation import save_model
from editlab.unlearning.facts import Facts, load_facts, load_neutral

Values = Mapping[str, Any]


def learned(
    model: Any, facts: Facts, neutral: Sequence[str], options: Learning, seed: int, *, lower_half: bool = False
) -> Any:
    """The model that knows the facts to forget; ``neutral`` sentences are rehearsed meanwhile.

    Raises:
        ModelError: it does not know enough of them.
    """
    learn(model, facts.forget, facts.retained, options, seed, neutral=neutral, lower_half=lower_half)
    questions = [q for split in facts.forget for q in split.questions]
    known = score_cloze(model, questions).accuracy
    if known < options.gate:
        raise ModelError(
            f"learn: the model knows {known:.2f} of the facts to forget, below gate {options.gate}; raise epochs "
            f"({options.epochs}) or lr ({options.lr})"
        )
    return model


def train_parent_stage(*, facts: str, options: Values, seed: int, threads: int, directory: str, training: str) -> None:
    """The small model that does not know what will be forgotten, and its training log."""
    set_threads(threads)
    known, neutral = load_facts(Path(facts)), load_neutral(Path(facts))
    section = QuestionModel.model_validate(options)
    model, log = train_answerer(known.retained, known.forget, neutral["training"], section, seed)
    save_model(model, directory)
    write_csv(training, pd.DataFrame(log))


def learn_stage(
    *,
    parent: str,
    loading: Values,
    facts: str,
    options: Values,
    seed: int,
    lower_half: bool,
    threads: int,
    directory: str,
) -> None:
    """The model that knows what will be forgotten."""
    set_threads(threads)
    model = learned(
        load_model(parent, **loading),
        load_facts(Path(facts)),
        load_neutral(Path(facts))["training"],
        Learning.model_validate(options),
        seed,
        lower_half=lower_half,
    )
    save_model(model, directory)
