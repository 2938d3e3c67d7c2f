"""Features of descriptions: TF-IDF of words and word pairs, or mean hidden states of the base."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen
from editlab.networks.loading import tokenizer_of


class TfIdf:
    """Counts of word 1-2 grams weighed by their inverse document frequency, ``ln((1 + n) / (1 + df)) + 1``.

    Rows keep their lengths: the mean over the wordings of two parts then is the sum of what each part adds, which a long
    phrase beside a short one would bend if every wording had length 1.

    Args:
        documents: what the vocabulary and the frequencies come from.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        seen = Counter(term for text in documents for term in set(_terms(text)))
        self.index = {term: i for i, term in enumerate(sorted(seen))}
        count = len(documents)
        self.weight = torch.tensor([math.log((1 + count) / (1 + seen[t])) + 1 for t in self.index], dtype=torch.float64)

    def __call__(self, documents: Sequence[str]) -> Tensor:
        """(documents, terms), float64; unknown terms count for nothing."""
        rows = torch.zeros(len(documents), len(self.index), dtype=torch.float64)
        for row, text in enumerate(documents):
            for term, times in Counter(_terms(text)).items():
                if term in self.index:
                    rows[row, self.index[term]] = times
        return rows * self.weight


def _terms(text: str) -> list[str]:
    words = text.lower().split()
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


@torch.no_grad()
def hidden_features(model: nn.Module, descriptions: Sequence[str]) -> Tensor:
    """Mean over the tokens of the base's last hidden states (descriptions, d), float64."""
    tokenizer, architecture = tokenizer_of(model), Architecture(model)
    rows = []
    with frozen(model):
        for text in descriptions:
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=architecture.device)
            with capture(outputs={"states": architecture.final_norm}) as found:
                model(input_ids=ids, use_cache=False)
            rows.append(found["states"][0].double().mean(dim=0).cpu())
    return torch.stack(rows)
