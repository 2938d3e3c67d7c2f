"""The literature's generator in small: hyper-convolutions from descriptions to LoRA tokens (Drag-and-Drop LLMs).

The condition of a task are the last hidden states of the frozen base over N of its descriptions, all tokens of each:
(N, L, C). A layer mixes one axis after another by convolutions over the other two, along two paths of opposite order, and
takes the mean of both and a bias. Its output, (tokens, rank + 2, chunk + 2), is added to the teachers' mean tokens, so
that all supervisions start from the mean adapter. Supervision: on token cells (``weights``), on deltas through the base
(``deltas``, kept in bounds by a norm band and a diversity term), or both. The step with the most validation letters is kept.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editlab.adapters.losses import delta_loss, diversity, norm_band, product_norms
from editlab.adapters.scoring import Scorer
from editlab.adapters.tokens import Layout, token_loss, token_weights
from editlab.adapters.training_set import TrainingSet
from editlab.config.adapters import HyperConvolution
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen
from editlab.networks.loading import tokenizer_of
from editlab.randomness import derive_seed, python_rng

LENGTH = 16  # tokens of a description that the condition keeps


class Layer(nn.Module):
    """(batch, N, L, C) to (batch, N', L', C')."""

    def __init__(self, before: tuple[int, int, int], after: tuple[int, int, int], kernel: int = 3) -> None:
        super().__init__()

        def mix(inside: int, outside: int) -> nn.Conv2d:
            return nn.Conv2d(inside, outside, kernel, padding="same")

        self.norm = nn.LayerNorm(before[1:])
        self.width_first, self.width_then = mix(before[2], after[2]), mix(before[1], after[1])
        self.height_first, self.height_then = mix(before[1], after[1]), mix(before[2], after[2])
        self.mix = mix(before[0], after[0])
        self.bias = nn.Parameter(torch.zeros(after[1:]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        # A convolution mixes axis 1 over the two behind it: each axis is brought there in its turn.
        wide = self.width_first(x.permute(0, 3, 1, 2)).permute(0, 3, 2, 1)
        wide = self.width_then(wide).permute(0, 2, 1, 3)
        high = self.height_first(x.permute(0, 2, 1, 3)).permute(0, 3, 2, 1)
        high = torch.tanh(self.height_then(high).permute(0, 2, 3, 1))
        return self.mix((wide + high + self.bias) / 3)


class Decoder(nn.Module):
    """The cascade from a condition (batch, N, L, C) to tokens (batch, T, r + 2, chunk + 2), added to ``mean``."""

    def __init__(self, condition: tuple[int, int, int], mean: Tensor) -> None:
        super().__init__()
        tokens, rows, columns = mean.shape
        sizes = [condition, (32, 12, 64), (64, 8, 36), (tokens, rows, columns)]
        self.layers = nn.Sequential(*(Layer(a, b) for a, b in itertools.pairwise(sizes)))
        self.register_buffer("mean", mean)
        last: Any = self.layers[-1]
        nn.init.normal_(last.mix.weight, std=1e-3)
        nn.init.zeros_(last.mix.bias)

    def forward(self, condition: Tensor) -> Tensor:
        return self.mean + self.layers(condition)


class Generator:
    """A trained decoder with what it needs to be asked about a task.

    Attributes:
        log: rows of step and validation letters.
    """

    def __init__(self, data: TrainingSet, options: HyperConvolution, decoder: Decoder, layout: Layout) -> None:
        self.data, self.options, self.decoder, self.layout = data, options, decoder, layout
        self.log: list[dict[str, float]] = []
        self._states: dict[str, Tensor] = {}

    def condition(self, name: str, chosen: Sequence[int]) -> Tensor:
        """(N, L, C) of the wordings of a task that ``chosen`` names."""
        if name not in self._states:
            self._states[name] = token_states(self.data.model, self.data.wordings(name))
        return self._states[name][list(chosen)]

    def tokens(self, names: Sequence[str], rng: random.Random | None = None) -> Tensor:
        """Tokens for tasks; training draws the wordings anew, else they are the first ones."""
        conditions = []
        for name in names:
            count = len(self.data.wordings(name))
            chosen = [i % count for i in range(self.options.descriptions)]
            if rng is not None:
                chosen = [rng.randrange(count) for _ in range(self.options.descriptions)]
            conditions.append(self.condition(name, chosen))
        return self.decoder(torch.stack(conditions))

    @torch.no_grad()
    def changes(self, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Stacked factors for tasks."""
        return self.layout.decode(self.tokens(names))


@torch.no_grad()
def token_states(model: nn.Module, texts: Sequence[str]) -> Tensor:
    """Last hidden states of the base over each text, cut or filled with zeros to (texts, L, C), on the CPU as the pool."""
    tokenizer, architecture = tokenizer_of(model), Architecture(model)
    rows = []
    with frozen(model):
        for text in texts:
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=architecture.device)
            with capture(outputs={"states": architecture.final_norm}) as found:
                model(input_ids=ids, use_cache=False)
            states = found["states"][0, :LENGTH].float()
            rows.append(torch.nn.functional.pad(states, (0, 0, 0, LENGTH - len(states))))
    return torch.stack(rows).cpu()


def train_hyperconvolution(
    data: TrainingSet,
    options: HyperConvolution,
    supervision: str,
    scorer: Scorer,
    validation: Sequence[str],
    seed: int,
) -> Generator:
    """Train a decoder by ``weights``, ``deltas`` or ``both``."""
    teachers = data.pool.at(data.train)
    layout = Layout.of(teachers, options.chunk)
    tokens = layout.encode(teachers)
    embeddings: Any = Architecture(data.model).embeddings
    width = embeddings.weight.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("adapters", "hyperconvolution", seed))
        decoder = Decoder((options.descriptions, LENGTH, int(width)), tokens.mean(dim=0).nan_to_num())
    generator = Generator(data, options, decoder, layout)
    loss_of = _Loss(data, layout, tokens, supervision, options)
    optimizer = torch.optim.AdamW(decoder.parameters(), options.lr, weight_decay=0.01)
    rng = python_rng("adapters", "hyperconvolution", seed)
    best = (scorer.letters(validation, generator.changes), _copied(decoder))
    generator.log.append({"step": 0.0, "letters": best[0]})
    for step in range(1, options.steps + 1):
        rows = rng.sample(range(len(data.train)), min(options.batch, len(data.train)))
        loss = loss_of(generator.tokens([data.train[i] for i in rows], rng), rows, rng.randrange(len(data.lessons)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if step % options.every == 0 or step == options.steps:
            letters = scorer.letters(validation, generator.changes)
            generator.log.append({"step": float(step), "letters": letters, "loss": float(loss.detach())})
            if letters > best[0]:
                best = (letters, _copied(decoder))
    decoder.load_state_dict(best[1])
    return generator


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class _Loss:
    """The loss of one supervision on generated tokens."""

    def __init__(
        self, data: TrainingSet, layout: Layout, tokens: Tensor, supervision: str, options: HyperConvolution
    ) -> None:
        self.data, self.layout, self.tokens, self.options = data, layout, tokens, options
        self.supervision, self.weights = supervision, token_weights(tokens)
        self.sizes = [wanted.square().sum(dim=1).mean() for _, wanted in data.lessons]
        self.norm = product_norms(data.pool.at(data.train)).mean()

    def __call__(self, found: Tensor, rows: list[int], lesson: int) -> Tensor:
        loss = found.new_zeros(())
        if self.supervision in ("weights", "both"):
            loss = loss + token_loss(found, self.tokens[rows], self.weights)
        if self.supervision in ("deltas", "both"):
            factors = self.layout.decode(found)
            probes, wanted = self.data.lessons[lesson]
            with frozen(self.data.model):
                deltas = probes.supervise(self.data.model, factors, len(rows))
            loss = loss + delta_loss(deltas, wanted[rows], self.sizes[lesson])
            loss = loss + self.options.norm_band * norm_band(product_norms(factors), self.norm)
            loss = loss + self.options.diversity * diversity(deltas, wanted[rows])
        return loss
