"""Unlearning: descend an objective on texts to forget and texts to retain, with guards, and look after every epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.config.unlearning import Method, SelectedRepresentations, Steering
from editlab.errors import ConfigError, DataError
from editlab.networks.architectures import Architecture
from editlab.networks.loading import tokenizer_of
from editlab.training import losses
from editlab.training.batches import Batch, collate, epochs_of, text_rows
from editlab.training.objectives import OBJECTIVES, REPELLING, Context, prepare, steered_layer
from editlab.training.optimizers import optimizer_of
from editlab.training.parametrisation import Trainable, blocks_only, lora, whole
from editlab.training.repselect import forgetting_step
from editlab.training.retraining import TokenRow

OnEpoch = Callable[[int, Trainable], None]


@dataclasses.dataclass(frozen=True)
class UnlearningTexts:
    """What a run of unlearning reads.

    Attributes:
        forget: texts of the objective's form (true ones, or with wrong answers), a list a split.
        truth: the true texts of the same splits: what later folds retain.
        retain: true texts of other facts.
        neutral: texts that state no fact, for the divergence from the model before.
    """

    forget: Sequence[Sequence[str]]
    truth: Sequence[Sequence[str]]
    retain: Sequence[str]
    neutral: Sequence[str] = ()


@dataclasses.dataclass
class Course:
    """How a run went: mean of each term by epoch, steps made, why it ended early (None: it did not)."""

    terms: list[dict[str, float]] = dataclasses.field(default_factory=list)
    steps: int = 0
    ended: str | None = None


def unlearn(
    model: Any,
    texts: UnlearningTexts,
    method: Method,
    *,
    rank: int,
    lr: float,
    retain: float,
    seed: int,
    after_epoch: OnEpoch | None = None,
    stop_after: int | None = None,
) -> tuple[Trainable, Course]:
    """Unlearn in place; deterministic in the arguments.

    Args:
        rank: of the LoRA; 0 for the other parametrisations.
        retain: coefficient of the retain term.
        after_epoch: called with 0 before the first step, then after each epoch, with the model as it is.
        stop_after: end after so many epochs; the model is then what ``after_epoch`` saw at that epoch of a longer run.

    Raises:
        ConfigError: a rank without LoRA, or LoRA without one.
        DataError: nothing to forget or to retain.
    """
    if not texts.forget or not all(texts.forget) or not texts.retain:
        raise DataError("unlearning: texts to forget and texts to retain are both needed")
    trainable = parametrised(model, method, rank, seed)
    run = _Run(trainable, texts, method, lr, retain, seed)
    if after_epoch:
        after_epoch(0, trainable)
    stages = [stage for stage, length in enumerate(_stages(method)) for _ in range(length)]
    for epoch, stage in enumerate(stages[:stop_after], start=1):
        run.epoch(stage)
        if run.course.ended:
            break
        if after_epoch:
            after_epoch(epoch, trainable)
    return trainable, run.course


def parametrised(model: Any, method: Method, rank: int, seed: int) -> Trainable:
    """The parameters that a method moves.

    Raises:
        ConfigError: rank 0 with LoRA, a rank without it, or an objective that cannot take the parametrisation.
    """
    if (method.parametrisation == "lora") != bool(rank):
        raise ConfigError(f"rank: {rank} is not allowed with parametrisation {method.parametrisation}")
    if isinstance(method.objective, SelectedRepresentations):
        if method.parametrisation != "full":
            raise ConfigError("parametrisation: repselect moves whole MLP matrices; only 'full' is allowed")
        return whole(model)
    blocks = _blocks(model, method)
    if rank:
        return lora(model, rank, seed, alpha=method.alpha, blocks=blocks)
    if method.parametrisation == "layers" or method.blocks:
        layers = list(range(Architecture(model).num_layers))
        return blocks_only(model, blocks or layers, method.maps)
    return whole(model)


def _blocks(model: Any, method: Method) -> list[int] | None:
    """Blocks that are trained: a part of the depth, for RMU by default three up to its layer; None: all."""
    count = Architecture(model).num_layers
    if method.blocks:
        low, high = (round(share * count) for share in method.blocks)
        return list(range(low, max(high, low + 1)))
    if isinstance(method.objective, Steering) and method.parametrisation != "full":
        layer = steered_layer(method.objective, count)
        return list(range(max(0, layer - 2), layer + 1))
    return None


def _stages(method: Method) -> list[int]:
    """Epochs of each stage: one stage, or one a fold, together at least as many epochs as configured."""
    return [math.ceil(method.epochs / method.folds)] * method.folds if method.folds > 1 else [method.epochs]


def divergence(trainable: Trainable, batches: Sequence[Batch]) -> float:
    """Mean KL of the model from what it was, in nats a token, over the texts of ``batches``."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            with trainable.as_before():
                before = trainable.model(**batch.inputs).logits
            kl = losses.token_kl(before[:, :-1], trainable.model(**batch.inputs).logits[:, :-1])
            total += float(kl[batch.learned[:, 1:]].double().sum())
            count += int(batch.learned[:, 1:].sum())
    return total / max(1, count)


class _Run:
    """One run: rows made once, batches in a seeded order, a course that is kept."""

    def __init__(
        self, trainable: Trainable, texts: UnlearningTexts, method: Method, lr: float, retain: float, seed: int
    ) -> None:
        tokenizer = tokenizer_of(trainable.model)
        self.trainable, self.method, self.lr, self.retain, self.seed = trainable, method, lr, retain, seed
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.forget = [text_rows(tokenizer, part) for part in texts.forget]
        self.truth = [text_rows(tokenizer, part) for part in texts.truth]
        self.kept = text_rows(tokenizer, texts.retain)
        self.neutral = self._cut(text_rows(tokenizer, texts.neutral), 32) if texts.neutral else []
        self.course = Course()
        self.best = {n: p.detach().clone() for n, p in trainable.parameters.items()} if method.kl_budget else {}
        sample = collate([row for part in self.forget for row in part][:64], self.pad_id, self._device)
        self.context: Context = prepare(method.objective, trainable, method.averaging, seed, sample)
        self.optimizer = optimizer_of(method)(trainable.parameters.values(), lr=lr)
        self.stage = -1
        self.streams: tuple[Iterator[Batch], Iterator[Batch]] = (iter(()), iter(()))

    @property
    def _device(self) -> torch.device:
        return next(self.trainable.model.parameters()).device

    def _cut(self, rows: Sequence[TokenRow], size: int) -> list[Batch]:
        return [collate(rows[i : i + size], self.pad_id, self._device) for i in range(0, len(rows), size)]

    def _pools(self, stage: int) -> tuple[list[TokenRow], list[TokenRow]]:
        """Rows to forget and to retain in a stage: folds up to it are forgotten, later ones retained."""
        folds = self.method.folds
        now = [row for i, part in enumerate(self.forget) if folds == 1 or i % folds <= stage for row in part]
        later = [row for i, part in enumerate(self.truth) if folds > 1 and i % folds > stage for row in part]
        return now, self.kept + later

    def _batches(self, rows: list[TokenRow], *coordinates: object) -> Iterator[Batch]:
        for chosen in epochs_of(len(rows), self.method.batch, self.seed, *coordinates):
            yield collate([rows[i] for i in chosen], self.pad_id, self._device)

    def epoch(self, stage: int) -> None:
        """One pass over what a stage forgets, or as many steps as the method counts as one."""
        forget, retain = self._pools(stage)
        if stage != self.stage:
            self.stage = stage
            self.streams = (self._batches(forget, "forget", stage), self._batches(retain, "retain", stage))
        if isinstance(self.method.objective, SelectedRepresentations):
            self._select(self._cut(forget, self.method.batch))
            return
        sums: dict[str, float] = {}
        steps = self.method.steps or math.ceil(len(forget) / self.method.batch)
        for _ in range(steps):
            values = self._step()
            sums = {name: sums.get(name, 0.0) + value / steps for name, value in values.items()}
            if self.course.ended:
                return
        self.course.terms.append(sums)

    def _select(self, batches: list[Batch]) -> None:
        assert isinstance(self.method.objective, SelectedRepresentations)
        values = forgetting_step(self.trainable.model, batches, self.method.objective, self.lr, self.seed)
        self.course.steps += 1
        self.course.terms.append(values)
        self.course.ended = self._diverged(values) or self._over_budget()

    def _step(self) -> dict[str, float]:
        """Both terms of the next two batches, the guards, one update."""
        forget, retain = next(self.streams[0]), next(self.streams[1])
        away, keep = OBJECTIVES[self.method.objective.name](self.context, forget, retain)
        values = {"forget": float(away.detach()), "retain": float(keep.detach())}
        self.course.ended = self._diverged(values)
        if not self.course.ended:
            self.optimizer.zero_grad(set_to_none=True)
            (away + self.retain * keep).backward()
            self.optimizer.step()
            self.course.steps += 1
            if self.course.steps % self.method.check_every == 0:
                self.course.ended = self._over_budget()
        return values

    def _diverged(self, values: dict[str, float]) -> str | None:
        """A term that is not finite, or an unbounded objective past twice the loss of a uniform guess."""
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            return f"the {broken[0]} term is not finite"
        limit = 2 * math.log(self.trainable.model.config.vocab_size)  # type: ignore[union-attr,arg-type]
        gamma = getattr(self.method.objective, "gamma", 1.0)
        if self.method.objective.name in REPELLING and -values["forget"] / gamma > limit:
            return f"the loss on texts to forget passed {limit:.1f}, twice that of a uniform guess"
        return None

    def _over_budget(self) -> str | None:
        """Past the budget the parameters go back to where they were at the last look."""
        if self.method.kl_budget is None:
            return None
        if not self.neutral:
            raise DataError("kl_budget: neutral texts are needed to measure the divergence")
        found = divergence(self.trainable, self.neutral)
        if found <= self.method.kl_budget:
            self.best = {n: p.detach().clone() for n, p in self.trainable.parameters.items()}
            return None
        _put_back(self.trainable, self.best)
        return f"KL on neutral text passed {self.method.kl_budget:g} (it was {found:.4g})"


@torch.no_grad()
def _put_back(trainable: Trainable, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        trainable.parameters[name].copy_(value)
