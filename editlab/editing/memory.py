"""A memory in place of a change of the weight: where a fact is looked up, what a session keeps, how the gate is chosen.

*Where.* NeuralDB looks a fact up at the last token of its subject, so that all facts of a subject share a key and one of them
wins. At the last token of the *prompt* the key says the relation too; the residual then is what the answer starts from.

*Independence.* Targets, keys and residuals are found on the model without its memory, so that an entry depends on its own fact
alone: not on the batch, on what was put in before, or on the order.

*Gate.* The larger of two cosines, both from facts and text that nothing is scored on. One is the quantile of neutral text:
but for a share of its tokens (``gate_rate``) every token's largest cosine is below. The other parts best, by balanced
accuracy, what should fire from what should not, with all reserved facts stored: paraphrases, whose own fact must be the
nearest, and all their prompts against the others' entries (the own one left out: other relations of the subject, the same
relation of other subjects). Keys at the subject's end do not know the relation: there a subject's entries count as its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.memory import Memory, StoredFact
from editlab.algebra.problem import Problem
from editlab.config.recipe import MemoryStorage
from editlab.data.requests import EditRequest
from editlab.editing.keys import TOKENS_PER_PASS, Contexts, compute_keys
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, run
from editlab.networks.loading import tokenizer_of
from editlab.networks.lookup import Lookup, attach
from editlab.networks.tokenization import pad


def looked_up(requests: Sequence[EditRequest], lookup: str) -> list[EditRequest]:
    """The requests as keys and targets see them: at the prompt's end the whole prompt stands for the subject."""
    if lookup == "subject":
        return list(requests)
    return [dataclasses.replace(r, prompt="{}", subject=r.rewrite_prompt) for r in requests]


def stored_facts(requests: Sequence[EditRequest]) -> list[StoredFact]:
    """What a memory calls them."""
    return [StoredFact(r.case_id, *r.key, r.target_new) for r in requests]


@dataclasses.dataclass(frozen=True)
class Gate:
    """The cosine above which an entry answers, and what it was chosen by (empty: it was given).

    Attributes:
        account: ``neutral`` and ``separating``, the two cosines; ``paraphrases``, the share of them that the gate lets to their
            own fact, and ``others``, the share of prompts that it lets to another one, both on the reserved facts.
    """

    value: float
    account: Mapping[str, float] = dataclasses.field(default_factory=dict)


class MemoryStore:
    """A memory a layer, read by hooks on the model while it is attached; the weights never change.

    Args:
        gate: of every new entry.

    Attributes:
        memories: by layer.
    """

    def __init__(self, architecture: Architecture, layers: Sequence[int], gate: Gate) -> None:
        self.architecture, self.gate = architecture, gate
        self.memories = {layer: Memory.empty(*architecture.weight_shape(layer)) for layer in layers}
        self._shown: dict[int, tuple[Lookup, Memory]] = {}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """The model remembers what is stored, beside what it remembered before."""
        with contextlib.ExitStack() as stack:
            for layer in self.memories:
                lookup, detach = attach(self.architecture, layer)
                stack.callback(detach)
                stack.callback(setattr, lookup, "memory", lookup.memory)
                self._shown[layer] = (lookup, lookup.memory)
            stack.callback(self._shown.clear)
            self._show(self.memories)
            yield

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The model without what is stored here."""
        self._show({})
        try:
            yield
        finally:
            self._show(self.memories)

    def _show(self, memories: Mapping[int, Memory]) -> None:
        for layer, (lookup, before) in self._shown.items():
            lookup.memory = before + memories[layer] if layer in memories else before

    def entries(self, problem: Problem, requests: Sequence[EditRequest]) -> Memory:
        """The entries of a batch: its keys and residuals as they are."""
        return Memory.of(problem.keys, problem.residual, self.gate.value, stored_facts(requests))

    def add(
        self, layer: int, update: Any, problem: Problem | None = None, *, whole: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """Put entries in; facts that are there already are replaced. The event says how many and what collides."""
        old = self.memories[layer]
        self.restore({**self.memories, layer: old + update})
        new = self.memories[layer]
        found = {
            "facts": update.size,
            "update_norm": update.norm(),
            "entries": new.size,
            "replaced": old.size + update.size - new.size,
            "collisions": len(update.collisions(new)),
            "gate": self.gate.value,
        }
        return update, found

    def remember(self, layer: int, keys: Tensor) -> None:
        """Nothing to remember: entries do not see each other."""

    def total(self, layer: int) -> Factors | None:
        """No weight gained anything."""
        return None

    def snapshot(self) -> Any:
        """The state now."""
        return dict(self.memories)

    def restore(self, state: Any) -> None:
        """Back to a :meth:`snapshot`, bit for bit."""
        self.memories = dict(state)
        self._show(self.memories)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to save; names of facts as the bytes of their JSON."""
        found: dict[str, Tensor] = {}
        for layer, memory in self.memories.items():
            found |= {f"memory.{layer}.{name}": part for name, part in memory.tensors().items()}
            text = json.dumps(memory.names()).encode()
            found[f"memory.{layer}.names"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The state from :meth:`tensors`."""
        found = {}
        for layer in self.memories:
            part = {name: tensors[f"memory.{layer}.{name}"] for name in ("keys", "residuals", "gates", "names")}
            names = json.loads(bytes(part.pop("names").tolist()).decode())
            found[layer] = Memory.restored(part, names)
        self.restore(found)


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


def firing_rate(model: torch.nn.Module, layer: int, memory: Memory, texts: Sequence[str]) -> float:
    """Share of the tokens of some texts at which a memory answers."""
    return float(memory.live.read(token_keys(model, layer, texts)).fires.double().mean()) if memory.live.size else 0.0


def memory_report(store: MemoryStore, model: torch.nn.Module, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What a table of metrics says about a memory: facts, gate, share of them that collide, firing rate on texts."""
    (layer, memory), *_ = store.memories.items()
    rows = [
        {"metric": "memory_facts", "value": float(memory.size), "n": memory.size},
        {"metric": "memory_gate", "value": store.gate.value, "n": 1},
    ]
    if memory.size:
        rows.append({"metric": "memory_collisions", "value": len(memory.collisions()) / memory.size, "n": memory.size})
    if texts and memory.size:
        rate = firing_rate(model, layer, memory, texts)
        rows.append({"metric": "memory_firing_neutral", "value": rate, "n": len(texts)})
    return rows


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
        ConfigError: there are fewer than two facts, or no texts.
    """
    facts = list({r.key: r for r in facts}.values())
    if len(facts) < 2:
        raise ConfigError("gate: needs reserved facts (tuning) to be calibrated on, at least two; give them, or a gate")
    keys = F.normalize(compute_keys(model, looked_up(facts, options.lookup), layer, contexts), dim=0).float()
    text = F.normalize(token_keys(model, layer, texts).float(), dim=-1)
    neutral = float((text @ keys).max(1).values.double().quantile(1 - options.gate_rate))
    owners, paraphrase, cosines = _prompt_cosines(model, layer, facts, options.lookup, keys)
    names = [r.subject if options.lookup == "subject" else r.key for r in facts]
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
    prompts = F.normalize(compute_keys(model, asked, layer), dim=0).float()
    return owners, torch.tensor(paraphrase, device=keys.device), prompts.T @ keys


def _best_cut(right: Tensor, asked: int, others: Tensor) -> float:
    """The cut of highest balanced accuracy: ``right`` of ``asked`` prompts should lie above it, ``others`` below; of equal ones
    the middle one."""
    levels = torch.cat([right, others]).unique()
    cuts = torch.cat([levels[:1] - 1e-3, (levels[1:] + levels[:-1]) / 2, levels[-1:]])
    above = len(right) - torch.searchsorted(right.sort().values, cuts, right=True)
    below = torch.searchsorted(others.sort().values, cuts, right=True)
    accuracy = above.double() / max(1, asked) + below.double() / len(others)
    best = (accuracy >= accuracy.max() - 1e-12).nonzero()[:, 0]
    return float(cuts[best[len(best) // 2]])
