"""Posthoc LoRA: a small adapter trained by gradient after raw edits, the usual way to wrap an edit in LoRA.

The raw edits stay in the weights. On top, PEFT puts a rank-r LoRA on the edited maps and trains it for a few steps on
the edited facts (NLL of the new objects), with a KL term that holds the model to what it said about held-out text
before. It is the baseline for the native, closed-form adapters of :mod:`editlab.algebra.low_rank`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.config.recipe import Posthoc
from editlab.data.requests import EditRequest
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, pad
from editlab.randomness import derive_seed, python_rng

FACTS_PER_STEP = 64
TEXTS_PER_STEP = 16


def train_posthoc(
    model: torch.nn.Module,
    layers: Sequence[int],
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    rank: int,
    options: Posthoc,
    seed: int = 0,
) -> tuple[dict[int, Factors], dict[str, Any]]:
    """Train a LoRA of the edited maps on the edited facts; the model is given back as it was.

    Args:
        model: already edited.
        texts: held-out sentences of the KL term.

    Returns:
        by layer, B A as factors; and the first and last loss.

    Raises:
        ConfigError: PEFT is not installed, or there is no held-out text for the KL term.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("backend: posthoc needs the package peft (pip install 'editlab[lora]')") from None
    if options.kl_factor and not texts:
        raise ConfigError("backend: posthoc needs held-out text for its KL term; give anchor_texts or kl_factor 0")
    architecture = Architecture(model)
    names = {layer: architecture.projection_name(layer) for layer in layers}
    batch = _Batches(model, requests, list(texts)[: options.anchor_texts], seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(names.values()),
        fan_in_fan_out=architecture.is_transposed(layers[0]),
        lora_dropout=0.0,
    )
    plain = {layer: architecture.projection(layer) for layer in layers}
    frozen = [p for p in model.parameters() if p.requires_grad]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("posthoc", seed))
            inject_adapter_in_model(config, model)
        losses = _train(model, batch, options)
        found = {k: _factors(model.get_submodule(name)) for k, name in names.items()}
    finally:
        for layer, module in plain.items():
            parent, _, child = names[layer].rpartition(".")
            setattr(model.get_submodule(parent), child, module)
        for parameter in frozen:
            parameter.requires_grad_(True)
            parameter.grad = None
        vars(model).pop("peft_config", None)  # PEFT leaves it; a later adapter would take the model for its own
    return found, {"posthoc_loss_first": losses[0], "posthoc_loss_last": losses[-1], "rank": rank}


class _Batches:
    """Seeded mini-batches of facts and of held-out text, and what the model said about the text before."""

    def __init__(self, model: torch.nn.Module, requests: Sequence[EditRequest], texts: list[str], seed: int) -> None:
        encoder = Encoder(tokenizer_of(model))
        self.model, self.pad_id = model, encoder.pad_id
        pairs = encoder.pairs([r.rewrite_prompt for r in requests], [r.target_new for r in requests])
        self.prompts, self.targets = [pair.prompt for pair in pairs], [pair.target for pair in pairs]
        self.texts = [list(ids)[:64] for ids in tokenizer_of(model)(texts).input_ids] if texts else []
        self.rng = python_rng("posthoc batches", seed)
        self.before = [self._text_log_probs([row])[0].detach() for row in self.texts]

    def fact_loss(self) -> Tensor:
        """Mean negative log-likelihood of the new objects over a mini-batch of facts."""
        chosen = self.rng.sample(range(len(self.prompts)), min(FACTS_PER_STEP, len(self.prompts)))
        rows = [self.prompts[i] + self.targets[i] for i in chosen]
        ids, mask = pad(rows, self.pad_id, self._device)
        labels = torch.full_like(ids, -100)
        for k, i in enumerate(chosen):
            labels[k, len(self.prompts[i]) : len(rows[k])] = ids[k, len(self.prompts[i]) : len(rows[k])]
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    def text_loss(self) -> Tensor:
        """Mean KL(before || now) a token over a mini-batch of held-out text."""
        chosen = self.rng.sample(range(len(self.texts)), min(TEXTS_PER_STEP, len(self.texts)))
        now = self._text_log_probs([self.texts[i] for i in chosen])
        terms = [
            F.kl_div(after, self.before[i], log_target=True, reduction="batchmean")
            for after, i in zip(now, chosen, strict=True)
        ]
        return torch.stack(terms).mean()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _text_log_probs(self, rows: list[list[int]]) -> list[Tensor]:
        ids, mask = pad(rows, self.pad_id, self._device)
        with torch.set_grad_enabled(any(p.requires_grad for n, p in self.model.named_parameters() if "lora_" in n)):
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
        return [logits[k, : len(row)] for k, row in enumerate(rows)]


def _train(model: torch.nn.Module, batch: _Batches, options: Posthoc) -> list[float]:
    trained = [p for name, p in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.Adam(trained, lr=options.lr)
    losses = []
    for _ in range(options.steps):
        loss = batch.fact_loss()
        losses.append(float(loss.detach()))
        if options.kl_factor:
            loss = loss + options.kl_factor * batch.text_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def _factors(module: Any) -> Factors:
    """B (d_out, r) and A (r, d_in) of a PEFT layer, times its scale."""
    left = module.lora_B["default"].weight.detach().double().cpu()
    right = module.lora_A["default"].weight.detach().double().cpu()
    return Factors(left * float(module.scaling["default"]), right)
