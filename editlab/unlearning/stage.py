"""What every job on a model is told, as its script hands it to the worker (JSON)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.config.unlearning import Scoring
from editlab.networks.loading import load_model
from editlab.randomness import set_threads
from editlab.unlearning.facts import Facts, load_facts, load_neutral


@dataclasses.dataclass(frozen=True)
class Stage:
    """A job on a model.

    Attributes:
        model: its folder.
        loading: options of :func:`~editlab.networks.loading.load_model`.
        facts: folder of the facts and neutral sentences.
        scoring: the section, resolved.
    """

    model: str
    loading: Mapping[str, Any]
    facts: str
    scoring: Mapping[str, Any]
    seed: int
    threads: int

    def load(self) -> Any:
        """The model, in a process that keeps to the threads of the job."""
        set_threads(self.threads)
        return load_model(self.model, **self.loading)

    def known(self) -> Facts:
        """The facts."""
        return load_facts(Path(self.facts))

    def neutral(self) -> Mapping[str, Sequence[str]]:
        """The neutral sentences, ``training`` and ``held_out``."""
        return load_neutral(Path(self.facts))

    def scored(self) -> Scoring:
        """How the model is scored."""
        return Scoring.model_validate(self.scoring)
