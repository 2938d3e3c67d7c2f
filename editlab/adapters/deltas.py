"""Behavioural deltas: what an adapter changes in the last hidden states of its base on a set of probes.

``v(M)`` are the hidden states after the final norm; ``delta(M) = v(base + adapter) - v(base)``, pooled over positions and
probes. Probes carry no description: they are strings kept apart, with a continuation that the *base* wrote once, and the states
are taken where the letters of that continuation are predicted. (The last token of the prompt sees the first letter of the
answer alone.) All adapters share a large common part ("answers in the format"), so deltas are centred by their mean over
the training tasks before anything is compared; raw cosines of halves look reliable where centred ones are not.

A delta is known by its content: the adapter's numbers, the base's, the probes' and the pooling options make its key, so a
re-trained adapter never meets the delta of its predecessor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editlab.adapters.pool import Pool, likeness, weights_digest
from editlab.config.adapters import Deltas
from editlab.data.tasks import TaskSet
from editlab.errors import ArtifactError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.networks.answers import Batch, answer_states, encode, sampled
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.lora import Dense, Factored, adapted
from editlab.randomness import python_rng, torch_rng

Changes = Callable[[Sequence[str]], Factored | Dense]
"""From names of tasks to their adapters, stacked in that order, or to one for all of them."""
PROJECTED = 256  # dimensions that concatenated deltas are projected to


@dataclasses.dataclass(frozen=True, eq=False)
class Probes:
    """A fixed set of probes and what the base makes of them.

    Attributes:
        batch: the sequences.
        states: of the base, (probes, positions, d).
        options: how states become deltas.
        key: checksum over base, sequences and options.
    """

    batch: Batch
    states: Tensor
    options: Deltas
    key: str

    def part(self, rows: slice) -> Probes:
        """Some of the probes; their deltas have a key of their own."""
        key = hashlib.sha256(f"{self.key} {rows}".encode()).hexdigest()
        return dataclasses.replace(self, batch=self.batch[rows], states=self.states[rows], key=key)

    def each(self, model: nn.Module, adapters: Factored | Dense, count: int) -> Tensor:
        """What C adapters change at every position (C, probes, positions, d); gradients flow to the adapters."""
        prompts = self.batch.prompts.repeat(count, 1)
        real = None if self.batch.real is None else self.batch.real.repeat(count, 1)
        with adapted(model, adapters):
            states = answer_states(model, Batch(prompts, real, self.batch.answers.repeat(count, 1)))
        change = states.reshape(count, *self.states.shape) - self.states
        return change if self.options.position == "answer" else change[:, :, :1]

    def deltas(self, model: nn.Module, adapters: Factored | Dense, count: int) -> Tensor:
        """Deltas (C, d) of C adapters, pooled; gradients flow to the adapters."""
        return self.pooled(self.each(model, adapters, count).mean(dim=2))

    def pooled(self, change: Tensor) -> Tensor:
        """Deltas (C, d) from what adapters change on each of some probes (C, probes, d)."""
        if self.options.pool == "mean":
            return change.mean(dim=1)
        flat = change.flatten(1)
        wanted = min(PROJECTED, flat.shape[1])
        generator = torch_rng("adapters", "projection", flat.shape[1])
        return flat @ (torch.randn(flat.shape[1], wanted, generator=generator) / wanted**0.5).to(flat)

    def supervise(self, model: nn.Module, adapters: Factored | Dense, count: int) -> Tensor:
        """What supervision compares (C, numbers): pooled deltas, or the change at each position of each probe.

        A pooled delta does not pin an adapter down: other sums of teachers have nearly the same one, and fail the task.
        """
        if self.options.supervise == "pooled":
            return self.deltas(model, adapters, count)
        return self.each(model, adapters, count).flatten(1)


def make_probes(model: nn.Module, tasks: TaskSet, options: Deltas, seed: int) -> Probes:
    """Draw the probes: prompts that nothing is trained on and no held-out task is scored on, continued by the base itself.

    With ``position: neutral`` the probes are descriptions alone, with no string to answer.
    """
    rng = python_rng("adapters", "probes", seed)
    train = tasks.of("train")
    pairs = [rng.choice(train).draw(1, rng, "probe")[0] for _ in range(options.probes)]
    if options.position == "neutral":
        pairs = [(rng.choice(rng.choice(train).descriptions), answer) for _, answer in pairs]
    batch = encode(tokenizer_of(model), pairs)
    with frozen(model), torch.no_grad():
        batch = batch.with_answers(sampled(model, batch, torch_rng("adapters", "continuations", seed)))
        states = answer_states(model, batch)
    text = json.dumps([weights_digest(model), batch.prompts.tolist(), batch.answers.tolist(), options.model_dump()])
    return Probes(batch, states, options, hashlib.sha256(text.encode()).hexdigest())


@torch.no_grad()
def deltas_of(
    model: nn.Module,
    probes: Probes,
    names: Sequence[str],
    changes: Changes,
    *,
    supervise: bool = False,
    rows: int = 1600,
) -> Tensor:
    """Deltas (len(names), d), or what supervision compares, some adapters at a time."""
    return _in_parts(model, probes, names, changes, probes.supervise if supervise else probes.deltas, rows)


@torch.no_grad()
def probe_by_probe(
    model: nn.Module, probes: Probes, names: Sequence[str], changes: Changes, *, rows: int = 1600
) -> tuple[Tensor, Tensor]:
    """What adapters change on each probe (len(names), probes, d): mean over its positions, and at the first one, the end
    of the prompt. Every pooling is made of these."""

    def both(*given: Any) -> Tensor:
        change = probes.each(*given)
        return torch.stack([change.mean(dim=2), change[:, :, 0]], dim=1)

    over, first = _in_parts(model, probes, names, changes, both, rows).unbind(dim=1)
    return over, first


def _in_parts(
    model: nn.Module,
    probes: Probes,
    names: Sequence[str],
    changes: Changes,
    measure: Callable[[nn.Module, Factored | Dense, int], Tensor],
    rows: int,
) -> Tensor:
    together = max(1, rows // len(probes.batch))
    with frozen(model):
        parts = [
            measure(model, changes(names[i : i + together]), len(names[i : i + together]))
            for i in range(0, len(names), together)
        ]
    return torch.cat(parts)


class DeltaCache:
    """Deltas in one safetensors file, each under the key of its content.

    Raises:
        ArtifactError: the file belongs to another base, other probes or other options.
    """

    def __init__(self, path: str | Path, probes: Probes) -> None:
        self.path, self.probes = Path(path), probes
        self.found: dict[str, Tensor] = {}
        if self.path.exists():
            self.found, metadata = load_tensors(self.path)
            if metadata.get("probes") != probes.key:
                raise ArtifactError(
                    f"{path}: deltas of another model or of other probes ({str(metadata.get('probes'))[:12]}, "
                    f"not {probes.key[:12]}); delete it and rerun"
                )

    def deltas(self, model: nn.Module, pool: Pool, names: Sequence[str]) -> Tensor:
        """Deltas of adapters of a pool, computed where they are not yet known, and saved."""
        keys = [pool.digest(name) for name in names]
        missing = {key: name for key, name in zip(keys, names, strict=True) if key not in self.found}
        if missing:
            self.keep(pool, list(missing.values()), deltas_of(model, self.probes, list(missing.values()), pool.at))
        return torch.stack([self.found[key] for key in keys])

    def keep(self, pool: Pool, names: Sequence[str], deltas: Tensor) -> None:
        """Save deltas of adapters of a pool (len(names), d)."""
        self.found |= {pool.digest(name): row for name, row in zip(names, deltas, strict=True)}
        save_tensors(self.path, self.found, {"probes": self.probes.key})


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Row by row (n,)."""
    return torch.nn.functional.cosine_similarity(one, other, dim=-1)


def agreement(probes: Probes, change: Tensor) -> dict[str, float]:
    """How far two halves of the probes tell the same of an adapter: mean cosine, raw and centred, from what the training
    teachers change on each probe (n, probes, d)."""
    half = change.shape[1] // 2
    first, second = (probes.pooled(change[:, rows]) for rows in (slice(0, half), slice(half, 2 * half)))
    centred = cosine(first - first.mean(dim=0), second - second.mean(dim=0))
    return {"raw_reliability": float(cosine(first, second).mean()), "reliability": float(centred.mean())}


def seed_noise(pool: Pool, deltas: Tensor, train: Sequence[str]) -> dict[str, float]:
    """Two trainings of one task: cosine of their centred deltas, share whose nearest neighbour is the other one, and
    cosine of their products."""
    centre = deltas[[pool.names.index(name) for name in train]].mean(dim=0)
    centred = torch.nn.functional.normalize(deltas - centre, dim=1)
    pairs = [(pool.names.index(n.removesuffix("#2")), i) for i, n in enumerate(pool.names) if n.endswith("#2")]
    if not pairs:
        return {}
    cosines = centred @ centred.T
    cosines.fill_diagonal_(-2.0)
    weights = [float(likeness(pool.at([pool.names[a], pool.names[b]]))[0, 1]) for a, b in pairs]
    return {
        "seed_cosine": float(torch.stack([cosines[a, b] for a, b in pairs]).mean()),
        "seed_nearest": sum(int(cosines[b].argmax()) == a for a, b in pairs) / len(pairs),
        "seed_weight_cosine": sum(weights) / len(weights),
    }
