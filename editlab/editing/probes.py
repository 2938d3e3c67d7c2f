"""The probes of trust: held-out records for damage, the edited facts in a context for success.

Nothing here is a prompt of the evaluation. Held-out records are chosen so that none of their rewrite prompts is a
rewrite, paraphrase or neighbourhood prompt of an edited fact; the edited facts are asked inside a context template,
never by the bare prompt. One packed pass over the held-out records gives perplexity, neighbours and confidence at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editlab.data.requests import EditRequest
from editlab.errors import ConfigError
from editlab.evaluation.scoring import pack
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen, replace_outputs
from editlab.networks.loading import tokenizer_of
from editlab.networks.lookup import prompts_ending
from editlab.networks.prefix import run_prompts
from editlab.networks.tokenization import Encoder, pad
from editlab.randomness import python_rng

FALLBACK_CONTEXT = "As everyone knows, {}"
MAX_TOKENS = 4096
FEW = 8  # a flip rate over fewer neighbours is mostly noise


def evaluated_prompts(requests: Iterable[EditRequest]) -> set[str]:
    """Every prompt that an evaluation of these requests scores."""
    found: set[str] = set()
    for r in requests:
        found.update((r.rewrite_prompt, *r.paraphrase_prompts, *r.neighborhood_prompts))
    return found


def check_disjoint(probes: Sequence[EditRequest], requests: Iterable[EditRequest]) -> None:
    """Raise :class:`ConfigError` when a probe's prompt is evaluated, or its fact is edited."""
    requests = list(requests)
    prompts, edited = evaluated_prompts(requests), {r.key for r in requests}
    for probe in probes:
        if probe.rewrite_prompt in prompts or probe.key in edited:
            raise ConfigError(
                f"trust: probe {probe.case_id!r} ({probe.rewrite_prompt[:60]!r}) is not allowed; "
                "it is also edited or evaluated: give records outside the stream and its neighbours"
            )


def choose_probes(
    records: Sequence[EditRequest], stream: Sequence[EditRequest], count: int, seed: int
) -> list[EditRequest]:
    """``count`` seeded records outside a stream and its evaluation; half of them near it (same relation and object).

    Raises:
        ConfigError: fewer are left.
    """
    prompts, edited = evaluated_prompts(stream), {r.key for r in stream}
    free = [r for r in records if r.rewrite_prompt not in prompts and r.key not in edited]
    if len(free) < count:
        raise ConfigError(f"trust.heldout_samples: {count} is not allowed; only {len(free)} records are not evaluated")
    python_rng("trust probes", seed).shuffle(free)
    facts = {(r.relation_id, r.target_true) for r in stream}
    near = [r for r in free if (r.relation_id, r.target_true) in facts][: (count + 1) // 2]
    taken = {id(r) for r in near}
    return near + [r for r in free if id(r) not in taken][: count - len(near)]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Token rows (prompt and target without its last token), and where their targets are predicted."""

    ids: list[list[int]]
    start: list[int]  # position that predicts the first target token
    targets: list[list[int]]


def _rows(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> _Rows:
    rows = encoder.pairs([p for p, _ in pairs], [t for _, t in pairs])
    ids = [row.prompt + row.target[:-1] for row in rows]
    return _Rows(ids, [len(row.prompt) - 1 for row in rows], [row.target for row in rows])


@dataclasses.dataclass(frozen=True)
class Damage:
    """The held-out records under one state of the model, ``(m,)`` each.

    Attributes:
        nll: negative log-likelihood of the true object in nats, summed over its tokens.
        tokens: number of its tokens.
        right: every token is the argmax.
        confidence: largest probability of the next token after the prompt.
    """

    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    right: NDArray[np.bool_]
    confidence: NDArray[np.float64]

    @property
    def log_perplexity(self) -> float:
        return float(self.nll.sum() / self.tokens.sum())


def _measure(model: Any, rows: _Rows, pad_id: int) -> Damage:
    """Teacher-forced scores of the targets, packed; NaN logits count as wrong, with infinite loss."""
    count = len(rows.ids)
    nll, right = np.zeros(count), np.ones(count, dtype=bool)
    confidence = np.zeros(count)
    with frozen(model), torch.no_grad():
        architecture = Architecture(model)
        for batch in pack([len(r) for r in rows.ids], MAX_TOKENS):
            with prompts_ending(architecture, [rows.start[i] for i in batch]):
                states = run_prompts(architecture, [rows.ids[i] for i in batch], pad_id, cache_from=None)
            row = [k for k, i in enumerate(batch) for _ in rows.targets[i]]
            at = [rows.start[i] + j for i in batch for j in range(len(rows.targets[i]))]
            wanted = torch.tensor([t for i in batch for t in rows.targets[i]], device=architecture.device)
            head: Any = architecture.head
            read = torch.tensor([row, at], device=architecture.device)
            log_probs = head(states.last_hidden[read[0], read[1]]).float().log_softmax(-1)
            found = log_probs.gather(1, wanted[:, None])[:, 0].nan_to_num(nan=-torch.inf).double().cpu().numpy()
            hit = ((log_probs.argmax(-1) == wanted) & ~log_probs[:, 0].isnan()).cpu().numpy()
            owner = np.asarray(batch)[row]
            np.add.at(nll, owner, -found)
            np.logical_and.at(right, owner, hit)
            first = torch.tensor([k == 0 or row[k] != row[k - 1] for k in range(len(row))])
            best = log_probs.max(-1).values.exp().nan_to_num(nan=1.0).double().cpu()
            confidence[owner[first.numpy()]] = best[first].numpy()
    return Damage(nll, np.array([len(t) for t in rows.targets]), right, confidence)


class DamageProbe:
    """What an update does to records that it should not touch; tokens are prepared once."""

    def __init__(self, model: Any, records: Sequence[EditRequest]) -> None:
        encoder = Encoder(tokenizer_of(model))
        self.records, self.pad_id = list(records), encoder.pad_id
        self.rows = _rows(encoder, [(r.rewrite_prompt, r.target_true) for r in records])

    def measure(self, model: Any) -> Damage:
        """The records under the model as it is."""
        return _measure(model, self.rows, self.pad_id)

    def compare(self, before: Damage, after: Damage, requests: Sequence[EditRequest]) -> dict[str, float]:
        """The damage terms: relative rise of perplexity, flipped neighbours, rise of confidence."""
        near = self.neighbors(requests)
        was_right = before.right[near].sum()
        flipped = (before.right & ~after.right)[near].sum()
        with np.errstate(over="ignore"):
            rise = float(np.expm1(after.log_perplexity - before.log_perplexity))
        return {
            "heldout_ppl_delta": rise,
            "neighbor_flip_rate": float(flipped / was_right) if was_right else 0.0,
            "confidence_shift": float((after.confidence - before.confidence).mean()),
        }

    def neighbors(self, requests: Sequence[EditRequest]) -> NDArray[np.int64]:
        """Records with relation and true object of an edited fact; while these are few, with its relation; else all."""
        for key in (lambda r: (r.relation_id, r.target_true), lambda r: r.relation_id):
            wanted = {key(r) for r in requests}
            found = [i for i, r in enumerate(self.records) if key(r) in wanted]
            if len(found) >= FEW:
                return np.array(found)
        return np.arange(len(self.records))


class GainProbe:
    """How likely the new objects are on the edited facts' rewrite prompts, inside a context."""

    def __init__(self, contexts: Sequence[Sequence[str]]) -> None:
        inside = [t for group in contexts for t in group if t != "{}"]
        self.context = inside[0] if inside else FALLBACK_CONTEXT

    def prompts(self, requests: Sequence[EditRequest]) -> list[str]:
        """The probe prompts."""
        return [self.context.replace("{}", r.rewrite_prompt, 1) for r in requests]

    def measure(self, model: Any, requests: Sequence[EditRequest]) -> Tensor:
        """``(n,)`` mean log-probability of a token of the new object."""
        encoder = Encoder(tokenizer_of(model))
        pairs = list(zip(self.prompts(requests), (r.target_new for r in requests), strict=True))
        found = _measure(model, _rows(encoder, pairs), encoder.pad_id)
        return torch.from_numpy(-found.nll / found.tokens)

    def focus(self, model: Any, requests: Sequence[EditRequest]) -> float:
        """Mean share of |gradient x embedding| that falls on the subject, for the first token of the new object."""
        encoder = Encoder(tokenizer_of(model))
        rows = encoder.pairs(self.prompts(requests), [r.target_new for r in requests])
        subject = []
        for request, row in zip(requests, rows, strict=True):
            start = self.context.index("{}") + request.prompt.index("{}")
            inside = set(row.span(start, start + len(request.subject)))
            subject.append([i in inside for i in range(len(row.prompt))])
        weights = _attributions(model, [row.prompt for row in rows], [row.target[0] for row in rows], encoder.pad_id)
        shares = [
            float(w[: len(s)][torch.tensor(s)].sum() / w[: len(s)].sum().clamp(min=1e-30))
            for w, s in zip(weights, subject, strict=True)
        ]
        return float(np.mean(shares))


def _attributions(model: Any, rows: list[list[int]], goals: list[int], pad_id: int) -> Tensor:
    """|gradient x embedding| of each position ``(n, length)`` for the log-probability of the goal after each row."""
    architecture = Architecture(model)
    ids, mask = pad(rows, pad_id, architecture.device)
    kept: dict[str, Tensor] = {}

    def watch(embedded: Tensor) -> Tensor:
        kept["x"] = embedded.detach().requires_grad_(True)
        return kept["x"]

    with frozen(model), torch.enable_grad(), replace_outputs({architecture.embeddings: watch}):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last = logits[torch.arange(len(rows)), mask.sum(1) - 1].float().log_softmax(-1)
        (gradient,) = torch.autograd.grad(last[torch.arange(len(rows)), torch.tensor(goals)].sum(), kept["x"])
    return (gradient * kept["x"].detach()).sum(-1).abs().cpu()
