"""The attack without a gradient: read held-out facts off the hidden states by a linear map.

What a model no longer says may still stand in its activations. A ridge regression learns, from facts of which the truth is
known, to go from the hidden state at the end of a statement to the embedding of its answer; of a held-out fact the choice
whose embedding is nearest counts as read. Alain and Bengio (2016, arXiv 1610.01644) for linear probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from editlab.data.questions import LETTERS, Question
from editlab.errors import DataError
from editlab.evaluation.choices import ChoiceScores, opening
from editlab.evaluation.scoring import pack
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.prefix import run_prompts

STRENGTHS = np.logspace(-3, 3, 13)  # of the ridge, in units of the mean square of a standardised state

States = NDArray[np.float64]


def probe(model: Any, known: Sequence[Question], asked: Sequence[Question], *, max_tokens: int = 4096) -> ChoiceScores:
    """Scores of the choices of ``asked``: minus the squared distance of each one's embedding from what is read off.

    The block and the strength of the ridge are those with the least leave-one-out error over ``known``; ``asked`` has no part
    in them. The model is not changed.

    Args:
        known: questions whose right answers are told: at least two.

    Raises:
        DataError: fewer than two known questions, or none asked.
    """
    if len(known) < 2 or not asked:
        raise DataError(f"probe: {len(known)} known and {len(asked)} asked questions; at least two and one are needed")
    states = _states(model, [*known, *asked], max_tokens)
    truth = _embedded(model, [q.right for q in known])
    fits = [_fitted(layer[: len(known)], truth) for layer in states]
    best = int(np.argmax([fit.best_score_ for fit, _ in fits]))
    fit, (mean, spread) = fits[best]
    read = fit.predict((states[best][len(known) :] - mean) / spread)
    choices = _embedded(model, [c for q in asked for c in q.choices]).reshape(len(asked), len(LETTERS), -1)
    distance = ((choices - read[:, None, :]) ** 2).sum(axis=-1)
    return ChoiceScores(-distance, np.array([q.answer for q in asked], dtype=np.int64))


def _fitted(states: States, truth: States) -> tuple[RidgeCV, tuple[States, States]]:
    """A ridge from standardised states (n, d) to answers (n, d), with the mean and the spread that standardise."""
    mean, spread = states.mean(axis=0), np.maximum(states.std(axis=0), 1e-12)
    return RidgeCV(alphas=STRENGTHS * len(states)).fit((states - mean) / spread, truth), (mean, spread)


def _states(model: Any, questions: Sequence[Question], max_tokens: int) -> States:
    """(blocks, n, d): the output of each block at the last token before the answer."""
    architecture, tokenizer = Architecture(model), tokenizer_of(model)
    rows = [list(ids) for ids in tokenizer([opening(q) for q in questions]).input_ids]
    blocks = range(architecture.num_layers)
    found: States | None = None
    with frozen(model):
        for batch in pack([len(row) for row in rows], max_tokens):
            passed = run_prompts(
                architecture,
                [rows[i] for i in batch],
                int(tokenizer.pad_token_id or 0),
                capture_blocks=blocks,
                cache_from=None,
            )
            last = torch.arange(len(batch), device=architecture.device), passed.lengths - 1
            ends = torch.stack([passed.captured[block][last] for block in blocks]).double().cpu().numpy()
            found = np.zeros((len(blocks), len(rows), ends.shape[-1])) if found is None else found
            found[:, batch] = ends
    assert found is not None  # the caller has questions
    return found


def _embedded(model: Any, answers: Sequence[str]) -> States:
    """(n, d): the mean row of the head over the tokens of each answer, as it follows a statement."""
    tokenizer = tokenizer_of(model)
    head: torch.Tensor = Architecture(model).head.weight  # type: ignore[assignment]
    table = head.detach().double().cpu().numpy()
    rows = tokenizer([f" {answer}" for answer in answers], add_special_tokens=False).input_ids
    return np.stack([table[list(ids)].mean(axis=0) for ids in rows])
