"""The loss of target vectors: prompts as rows of tokens, and one evaluation for all facts of a chunk.

For each fact the rows are its rewrite prompt in every context, followed by the new object, and "{subject} is a" for the KL
term, and where a subject's other relations are held their prompts. :class:`TargetProblem` holds what does not change from step
to step and evaluates the loss of all facts at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.keys import Contexts
from editlab.editing.memory import bytes_kept
from editlab.networks.architectures import Architecture
from editlab.networks.suffix import Suffixes, prepare_suffixes
from editlab.networks.tokenization import Encoder

KL_PROMPT = "{} is a"
ESSENCE, OTHER = (
    -1,
    -2,
)  # in place of a token that must be predicted: what is held there, of the subject or of a relation


@dataclasses.dataclass(frozen=True)
class TargetRow:
    """One prompt of one fact: token ids, look-up position, and the tokens it must predict at its end; none: what the model says
    is held, at the look-up (the KL row) or, of another relation (``other``), at its end."""

    fact: int
    ids: list[int]
    lookup: int
    targets: list[int]
    weight: float
    first: bool
    other: bool = False

    @property
    def entries(self) -> list[tuple[int, int, float]]:
        """(position that is read, token or what is held, weight) of what counts in the loss."""
        if self.other:
            return [(len(self.ids) - 1, OTHER, self.weight)]
        if not self.targets:
            return [(self.lookup, ESSENCE, 0.0)]
        # The last prompt token predicts the first target token, and so on.
        start = len(self.ids) - len(self.targets)
        return [(start + j, token, self.weight) for j, token in enumerate(self.targets)]

    @property
    def suffix(self) -> int:
        return len(self.ids) - self.lookup


def encode_rows(
    encoder: Encoder,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    with_kl: bool,
    others: Sequence[Sequence[str]] = (),
) -> list[TargetRow]:
    """The rows of every request, in every context; with the KL row of each where it is asked for.

    Args:
        others: by request, templates of the other relations that are held.
    """
    templates = [t for group in contexts for t in group]
    prompts = [t.replace("{}", r.prompt, 1) for r in requests for t in templates]
    subjects = [r.subject for r in requests for _ in templates]
    goals = [r.target_new for r in requests for _ in templates]
    pairs, lookups = encoder.lookups(prompts, subjects, goals)
    rows = []
    for k, (pair, lookup) in enumerate(zip(pairs, lookups, strict=True)):
        fact, context = divmod(k, len(templates))
        row, goal = pair.prompt, pair.target
        # The prompt's tokens, then the target without its last token: every target token is predicted once.
        rows.append(TargetRow(fact, row + goal[:-1], lookup, goal, 1.0 / (len(templates) * len(goal)), context == 0))
    if with_kl:
        kl_pairs, kl_lookups = encoder.lookups([KL_PROMPT] * len(requests), [r.subject for r in requests])
        for fact, (pair, lookup) in enumerate(zip(kl_pairs, kl_lookups, strict=True)):
            # The KL term reads the subject's last token: nothing after it can matter.
            rows.append(TargetRow(fact, pair.prompt[: lookup + 1], lookup, [], 0.0, False))
    asked = [(fact, template) for fact, templates in enumerate(others) for template in templates]
    pairs, lookups = encoder.lookups([t for _, t in asked], [requests[fact].subject for fact, _ in asked])
    for (fact, _), pair, lookup in zip(asked, pairs, lookups, strict=True):
        rows.append(TargetRow(fact, pair.prompt, lookup, [], 1.0 / len(others[fact]), False, other=True))
    return rows


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the model says before anything is optimised, as log-probabilities.

    Attributes:
        essence: ``(n, V)`` at the KL row of each fact; None without KL rows.
        others: ``(prompts, V)`` at the ends of the prompts of other relations.
    """

    essence: Tensor | None
    others: Tensor


@dataclasses.dataclass(frozen=True)
class TargetProblem:
    """Facts that are optimised together: clean base vectors, suffixes, and the tokens that must be predicted.

    Attributes:
        base: ``(n, d)`` in the optimisation's dtype.
        row_fact: ``(rows,)`` fact of each row of the suffixes.
        fact, token, weight: of each entry, a token of the suffixes that is read: first those that must be predicted, then
            what is held (:data:`ESSENCE`), then the other relations (:data:`OTHER`).
        other: of each entry of another relation, its number.
    """

    suffixes: Suffixes
    base: Tensor
    row_fact: Tensor
    fact: Tensor
    token: Tensor
    weight: Tensor
    other: Tensor

    @classmethod
    def prepare(
        cls, architecture: Architecture, rows: list[TargetRow], n: int, layer: int, site: str, pad_id: int
    ) -> TargetProblem:
        entries = [(k, place, row.fact, token, w) for k, row in enumerate(rows) for place, token, w in row.entries]
        entries.sort(key=lambda entry: max(0, -entry[3]))  # predictions, essence, other relations; else as they are
        needed = [(e[0], e[1]) for e in entries]
        suffixes, mlp = prepare_suffixes(
            architecture, [r.ids for r in rows], [r.lookup for r in rows], needed, layer, pad_id
        )
        values = mlp if site == "mlp" else suffixes.hidden[: len(rows)]
        dtype, device = working_dtype(values), values.device
        first = sorted((row.fact, k) for k, row in enumerate(rows) if row.first)
        return cls(
            suffixes=suffixes,
            base=values[torch.tensor([k for _, k in first], device=device)].to(dtype),
            row_fact=torch.tensor([row.fact for row in rows], device=device),
            fact=torch.tensor([e[2] for e in entries], device=device),
            token=torch.tensor([e[3] for e in entries], device=device),
            weight=torch.tensor([e[4] for e in entries], dtype=dtype, device=device),
            other=torch.arange(sum(row.other for row in rows), device=device),
        )

    def memory(self, options: TargetOptions) -> int:
        """Bytes that a step keeps: the clean states, and what the gradient needs."""
        suffixes, delta = self.suffixes, torch.zeros_like(self.base).requires_grad_(True)
        beside = [suffixes.hidden, self.base, *suffixes.keys.values(), *suffixes.values.values()]
        with suffixes.architecture.handing_over():
            return bytes_kept(
                lambda: self.losses(delta, options, None)[0], beside, suffixes.architecture.model.parameters()
            )

    def select(self, active: Tensor) -> TargetProblem:
        """Without the rows and entries of facts that are not ``active (n,)``; the facts keep their numbers."""
        suffixes, stays = self.suffixes.select(active[self.row_fact])
        return dataclasses.replace(
            self,
            suffixes=suffixes,
            row_fact=self.row_fact[active[self.row_fact]],
            fact=self.fact[stays],
            token=self.token[stays],
            weight=self.weight[stays],
            other=self.other[stays[len(stays) - len(self.other) :]],
        )

    def losses(
        self, delta: Tensor, options: TargetOptions, before: Reference | None
    ) -> tuple[Tensor, Tensor, Reference]:
        """Loss of every fact ``(n,)``, whether its object is the argmax everywhere, and the reference of what is held.

        Args:
            before: the reference; None: the model is as it is now, with all facts active.
        """
        hidden = self.suffixes.run(delta.index_select(0, self.row_fact))
        logits = self.suffixes.architecture.logits(hidden)
        log_probs = F.log_softmax(logits.to(working_dtype(logits)), dim=-1).to(delta.dtype)
        n, predictions = len(delta), int((self.token >= 0).sum())
        token, fact = self.token[:predictions, None], self.fact[:predictions]
        picked = log_probs[:predictions].gather(1, token)[:, 0]
        loss = torch.zeros(n, dtype=delta.dtype, device=delta.device)
        loss = loss.index_add(0, fact, -picked * self.weight[:predictions])
        most_probable = torch.ones(n, dtype=torch.bool, device=delta.device)
        if options.stop == "most_probable":
            most_probable[fact[log_probs[:predictions].detach().argmax(-1) != token[:, 0]]] = False
        held = len(self.token) - len(self.other)
        before = before or self._reference(log_probs.detach(), n, predictions, held)
        if before.essence is not None:
            now, fact = log_probs[predictions:held], self.fact[predictions:held]
            kl = (now.exp() * (now - before.essence[fact])).sum(-1)
            loss = loss.index_add(0, fact, options.kl_factor * kl)
        if len(self.other):
            then = before.others[self.other]
            kl = (then.exp() * (then - log_probs[held:])).sum(-1)
            loss = loss.index_add(0, self.fact[held:], options.subject_weight * self.weight[held:] * kl)
        loss = loss + options.weight_decay * delta.norm(dim=1) / self.base.norm(dim=1) ** 2
        return loss, most_probable, before

    def _reference(self, log_probs: Tensor, n: int, predictions: int, held: int) -> Reference:
        """What is said now: copies, which keep no step alive."""
        essence = None
        if held > predictions:
            essence = torch.zeros(n, log_probs.shape[1], dtype=log_probs.dtype, device=log_probs.device)
            essence[self.fact[predictions:held]] = log_probs[predictions:held]
        return Reference(essence, log_probs[held:].clone())


def working_dtype(tensor: Tensor) -> torch.dtype:
    """The type in which deltas, moments and losses are kept: float32, and float64 for a model of that."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
