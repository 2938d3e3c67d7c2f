"""Rivals that edit nothing: the fact that a prompt is most like is put in front of it, or answers it.

A prompt is like a fact by the cosine of their character n-grams: no network is needed. The likeness above which a fact
counts as asked for is calibrated on reserved facts, as the gate of a memory is (:mod:`editlab.editing.gate`): paraphrases
should pass with their own fact, prompts of other facts should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from editlab.config.recipe import Recipe
from editlab.config.solvers import InContext, TextLookup
from editlab.data.requests import EditRequest
from editlab.editing.gate import Gate, separating_gate
from editlab.errors import ConfigError

PROMPTS_A_PASS = 4096
"""Prompts that are compared with all facts at once."""


class FactReader:
    """Stands beside a model and knows the facts edited so far (:class:`editlab.networks.reading.Reader`).

    Args:
        facts: the session's own list, which grows; of two with one subject and relation the later one holds.
        gate: the cosine above which a fact is asked for.
        answers: the facts answer in the model's place; else they are shown to it.
        shown_facts: of these a prompt, at most.
    """

    def __init__(self, facts: list[EditRequest], gate: Gate, *, answers: bool, shown_facts: int = 1) -> None:
        self.facts, self.gate, self.in_place, self.shown_facts = facts, gate, answers, shown_facts
        self._held: list[EditRequest] = []
        self._index: Any = None
        self._known = 0

    def shown(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, each behind the statements of the facts that it is most like and that pass the gate, the nearest last."""
        if self.in_place:
            return list(prompts)
        found = self.nearest(prompts, self.shown_facts)
        return [" ".join([*map(statement, reversed(facts)), p]) for p, facts in zip(prompts, found, strict=True)]

    def answers(self, prompts: Sequence[str]) -> list[str | None]:
        """The new object of the fact that a prompt is most like, where that passes the gate."""
        if not self.in_place:
            return [None] * len(prompts)
        return [facts[0].target_new if facts else None for facts in self.nearest(prompts)]

    def nearest(self, prompts: Sequence[str], count: int = 1) -> list[list[EditRequest]]:
        """By prompt, the facts that pass the gate, the most alike first: ``count`` of them at most."""
        self._learn()
        if not self._held:
            return [[] for _ in prompts]
        found: list[list[EditRequest]] = []
        for start in range(0, len(prompts), PROMPTS_A_PASS):
            cosines = likeness(prompts[start : start + PROMPTS_A_PASS], self._index)
            best = _largest(cosines, count)
            found += [
                [self._held[i] for i in row if own[i] > self.gate.value] for row, own in zip(best, cosines, strict=True)
            ]
        return found

    def _learn(self) -> None:
        """Take in what was edited since the last look."""
        if self._known != len(self.facts):
            self._held = list({fact.key: fact for fact in self.facts}.values())
            self._index = features([fact.rewrite_prompt for fact in self._held])
            self._known = len(self.facts)


def _largest(cosines: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """By row, the columns of its largest numbers, the largest first."""
    if count == 1:
        return cosines.argmax(1)[:, None]
    few = min(count, cosines.shape[1])
    near = np.sort(np.argpartition(-cosines, few - 1, axis=1)[:, :few], axis=1)
    order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
    return np.take_along_axis(near, order, 1)


def statement(fact: EditRequest) -> str:
    """A fact as a sentence: its prompt with the new object."""
    return f"{fact.rewrite_prompt} {fact.target_new}."


def features(texts: Sequence[str]) -> Any:
    """Sparse unit rows ``(texts, 2^18)``: counts of the 2- to 4-grams of characters within words, hashed."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options = {"analyzer": "char_wb", "ngram_range": (2, 4), "n_features": 2**18, "alternate_sign": False}
    return HashingVectorizer(norm="l2", **options).transform(list(texts))


def likeness(prompts: Sequence[str], index: Any) -> NDArray[np.float64]:
    """Cosines ``(prompts, facts)`` of texts with the rows of :func:`features`."""
    return np.asarray((features(prompts) @ index.T).toarray())


def fact_reader(recipe: Recipe, facts: list[EditRequest], tuning: Sequence[EditRequest]) -> FactReader:
    """A reader of ``facts`` with the gate of the recipe, or with one that is calibrated on reserved facts (``tuning``).

    Raises:
        ConfigError: no gate is given, and fewer than two reserved facts are.
    """
    gate = Gate(recipe.gate) if recipe.gate is not None else calibrated_likeness(tuning)
    gate.warn_if_closed(recipe.solver)
    shown = recipe.shown_facts if isinstance(recipe, InContext) else 1
    return FactReader(facts, gate, answers=isinstance(recipe, TextLookup), shown_facts=shown)


def calibrated_likeness(facts: Sequence[EditRequest]) -> Gate:
    """The cosine that parts best, on reserved facts, paraphrases and their own fact from prompts and the facts of others.

    Raises:
        ConfigError: there are fewer than two facts.
    """
    facts = list({r.key: r for r in facts}.values())
    if len(facts) < 2:
        raise ConfigError("gate: needs reserved facts (tuning) to be calibrated on, at least two; give them, or a gate")
    prompts = [[fact.rewrite_prompt, *fact.paraphrase_prompts] for fact in facts]
    owners = [number for number, texts in enumerate(prompts) for _ in texts]
    paraphrase = torch.tensor([place > 0 or len(texts) == 1 for texts in prompts for place in range(len(texts))])
    index = features([fact.rewrite_prompt for fact in facts])
    cosines = torch.from_numpy(likeness([text for texts in prompts for text in texts], index))
    return separating_gate([fact.key for fact in facts], owners, paraphrase, cosines)
