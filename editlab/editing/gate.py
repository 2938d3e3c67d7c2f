"""How the gate of a memory is chosen, on facts and text that nothing is scored on.

It is the larger of two cosines. One is the quantile of neutral text: but for a share of its tokens (``gate_rate``) every
token's largest cosine is below. The other parts best, by the harmonic mean of the two shares (as S weighs paraphrases and
neighbours: a gate that nothing passes is worth nothing), what should fire from what should not, with all
reserved facts stored: paraphrases, whose own fact must be the nearest, and all their prompts against the others' entries (the
own one left out: other relations of the subject, the same relation of other subjects). Keys at the subject's end do not know
the relation: there a subject's entries count as its own.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.config.recipe import MemoryStorage
from editlab.data.requests import EditRequest
from editlab.editing.keys import TOKENS_PER_PASS, Contexts, compute_keys
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, run
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import pad

logger = logging.getLogger(__name__)

HARDLY_ANY = 0.1
"""Share of the reserved facts' paraphrases below which a gate is told to be of little use."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """The cosine above which an entry answers, and what it was chosen by (empty: it was given).

    Attributes:
        account: ``neutral`` and ``separating``, the two cosines; ``paraphrases``, the share of them that the gate lets to their
            own fact, and ``others``, the share of prompts that it lets to another one, both on the reserved facts.
    """

    value: float
    account: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def warn_if_closed(self, method: str) -> None:
        """Log a warning where it was calibrated and hardly a paraphrase passes."""
        share = self.account.get("paraphrases", 1.0)
        if share < HARDLY_ANY:
            logger.warning(
                "%s: %.0f %% of the paraphrases of the reserved facts pass the calibrated gate, %.3f; "
                "edit another layer, or give a gate",
                method, 100 * share, self.value,
            )  # fmt: skip


def looked_up(requests: Sequence[EditRequest], lookup: str) -> list[EditRequest]:
    """The requests as keys and targets see them: at the prompt's end the whole prompt stands for the subject."""
    if lookup == "subject":
        return list(requests)
    return [dataclasses.replace(r, prompt="{}", subject=r.rewrite_prompt) for r in requests]


def token_keys(model: torch.nn.Module, layer: int, texts: Sequence[str]) -> Tensor:
    """Inputs ``(tokens, d_in)`` of the edited map at every token of some texts, each cut at the model's context."""
    if not texts:
        raise ConfigError("gate: needs neutral text, and there is none; give texts, or a gate")
    architecture, tokenizer = Architecture(model), tokenizer_of(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    rows = sorted((row[:limit] for row in tokenizer(list(texts)).input_ids if row), key=len)
    projection, block, found = architecture.projection(layer), architecture.block(layer), []
    step = max(1, TOKENS_PER_PASS // max(len(row) for row in rows))
    for start in range(0, len(rows), step):
        ids, mask = pad(rows[start : start + step], int(tokenizer.pad_token_id or 0), architecture.device)
        with torch.no_grad(), capture({"key": projection}, stop_after=block) as states:
            run(architecture.model, input_ids=ids, attention_mask=mask, use_cache=False)
        found.append(states["key"][mask.bool()])
    return torch.cat(found)


def calibrated_gate(
    model: torch.nn.Module,
    layer: int,
    contexts: Contexts,
    options: MemoryStorage,
    facts: Sequence[EditRequest],
    texts: Sequence[str],
) -> Gate:
    """The gate (see the module's docstring), on an unedited model.

    Args:
        facts: reserved ones, neither edited nor scored.
        texts: neutral ones, not those that perplexity and firing are measured on.

    Raises:
        ConfigError: there are fewer than two facts, no prompt of them to look up, or no texts.
    """
    facts = list({r.key: r for r in facts}.values())
    if len(facts) < 2:
        raise ConfigError("gate: needs reserved facts (tuning) to be calibrated on, at least two; give them, or a gate")
    keys = F.normalize(compute_keys(model, looked_up(facts, options.lookup), layer, contexts), dim=0).float()
    text = F.normalize(token_keys(model, layer, texts).float(), dim=-1)
    neutral = float((text @ keys).max(1).values.double().quantile(1 - options.gate_rate))
    owners, paraphrase, cosines = _prompt_cosines(model, layer, facts, options.lookup, keys)
    names = [r.subject if options.lookup == "subject" else r.key for r in facts]
    return separating_gate(names, owners, paraphrase, cosines, neutral)


def separating_gate(
    names: Sequence[Hashable], owners: Sequence[int], paraphrase: Tensor, cosines: Tensor, neutral: float = -1.0
) -> Gate:
    """The cosine that parts best what should pass from what should not, or ``neutral`` where that is larger.

    Args:
        names: of the facts; entries of the same name count as a prompt's own.
        owners: the fact of each prompt.
        paraphrase: (prompts,) which of them are paraphrases.
        cosines: (prompts, facts).
    """
    own = torch.tensor([[names[i] == name for name in names] for i in owners], device=cosines.device)
    mine, theirs = (cosines.masked_fill(hidden, -1.0).max(1).values.double() for hidden in (~own, own))
    right = mine[paraphrase & (mine > theirs)]
    separating = _best_cut(right, int(paraphrase.sum()), theirs)
    value = max(neutral, separating)
    account = {
        "neutral": neutral,
        "separating": separating,
        "paraphrases": float((right > value).sum()) / max(1, int(paraphrase.sum())),
        "others": float((theirs > value).double().mean()),
    }
    return Gate(value, account)


def _prompt_cosines(
    model: torch.nn.Module, layer: int, facts: Sequence[EditRequest], lookup: str, keys: Tensor
) -> tuple[list[int], Tensor, Tensor]:
    """Of every prompt of the facts: its fact, whether it is a paraphrase (a rewrite where the fact has none), and its cosines
    ``(prompts, facts)``."""
    asked, owners, paraphrase = [], [], []
    for number, fact in enumerate(facts):
        texts = [fact.rewrite_prompt, *fact.paraphrase_prompts]
        for place, text in enumerate(texts):
            if lookup == "subject":
                if text.count(fact.subject) != 1:
                    continue
                asked.append(dataclasses.replace(fact, prompt=text.replace(fact.subject, "{}")))
            else:
                asked.append(dataclasses.replace(fact, prompt="{}", subject=text))
            owners.append(number)
            paraphrase.append(place > 0 or len(texts) == 1)
    if not asked:
        raise ConfigError("gate: no prompt of the reserved facts holds its subject once; give a gate")
    prompts = F.normalize(compute_keys(model, asked, layer), dim=0).float()
    return owners, torch.tensor(paraphrase, device=keys.device), prompts.T @ keys


def _best_cut(right: Tensor, asked: int, others: Tensor) -> float:
    """The cut of the highest harmonic mean of two shares: ``right`` of ``asked`` prompts should lie above it, ``others`` below;
    of equal ones the middle one, or the highest of all where no prompt that should pass does at any."""
    levels = torch.cat([right, others]).unique()
    cuts = torch.cat([levels[:1] - 1e-3, (levels[1:] + levels[:-1]) / 2, levels[-1:]])
    above = len(right) - torch.searchsorted(right.sort().values, cuts, right=True)
    below = torch.searchsorted(others.sort().values, cuts, right=True)
    let, kept = above.double() / max(1, asked), below.double() / len(others)
    worth = 2 * let * kept / (let + kept).clamp(min=1e-12)
    if not len(right):
        return float(cuts[-1])
    best = (worth >= worth.max() - 1e-12).nonzero()[:, 0]
    return float(cuts[best[len(best) // 2]])
