"""The target optimisation as the published code runs it: fact by fact, the whole model at every step.

It is the opponent of the benchmark and is written to do well: the prompts of a fact and its KL prompt go through the
model as one padded batch, tokens are made once a fact, parameters have no gradient, and logits are computed once a step
(MEMIT's code computes them twice). As published, they are computed for every token. The result is the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.keys import Contexts
from editlab.editing.target_problem import KL_PROMPT
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen, replace_outputs
from editlab.networks.tokenization import Encoder, pad


def one_by_one(
    model: Any, requests: Sequence[EditRequest], layer: int, contexts: Contexts, options: TargetOptions
) -> tuple[Tensor, Tensor]:
    """Targets ``(d_out, n)`` and updates made ``(n,)``, one fact after another (MEMIT's ``compute_z``)."""
    encoder = Encoder(model.tokenizer)
    with frozen(model):
        found = [_target(model, encoder, request, layer, contexts, options) for request in requests]
    return torch.stack([z for z, _ in found], 1).double(), torch.tensor([steps for _, steps in found])


def _encode(
    encoder: Encoder, request: EditRequest, contexts: Contexts
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int]]:
    """Padded ids and mask of the rewriting prompts and the KL prompt, labels (-100: none), look-ups, the target."""
    templates = [t.replace("{}", request.prompt, 1) for group in contexts for t in group]
    subjects = [request.subject] * (len(templates) + 1)
    pairs, lookups = encoder.lookups([*templates, KL_PROMPT], subjects, [request.target_new] * len(subjects))
    rows, goal = [pair.prompt for pair in pairs], pairs[0].target
    ids, mask = pad([row + goal[:-1] for row in rows[:-1]] + [rows[-1]], encoder.pad_id)
    labels = torch.full((len(templates), ids.shape[1]), -100)
    for k, row in enumerate(rows[:-1]):
        labels[k, len(row) - 1 : len(row) - 1 + len(goal)] = torch.tensor(goal)
    return ids, mask, labels, torch.tensor(lookups), goal


def _target(
    model: Any, encoder: Encoder, request: EditRequest, layer: int, contexts: Contexts, options: TargetOptions
) -> tuple[Tensor, int]:
    *encoded, goal = _encode(encoder, request, contexts)
    device = Architecture(model).device
    ids, mask, labels, lookups = (tensor.to(device) for tensor in encoded)
    prompts, wanted = len(labels), labels != -100
    rows = torch.arange(len(ids), device=device)
    delta = torch.zeros(model.config.hidden_size, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=options.lr)
    base: Tensor | None = None
    before: Tensor | None = None

    def add(hidden: Tensor) -> Tensor:
        nonlocal base
        if base is None:
            base = hidden[0, lookups[0]].detach().clone()
        hidden = hidden.clone()
        hidden[rows, lookups] = (hidden[rows, lookups] + delta).to(hidden.dtype)
        return hidden

    with replace_outputs({Architecture(model).block(layer): add}):
        for step in range(options.steps):
            optimizer.zero_grad()
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
            log_probs = torch.log_softmax(logits[:prompts], dim=2)
            picked = log_probs.gather(2, labels.clamp(min=0)[..., None])[..., 0]
            loss = (-(picked * wanted).sum(1) / len(goal)).mean()
            if options.kl_factor:
                now = torch.log_softmax(logits[prompts, lookups[prompts]], dim=0)
                before = now.detach().clone() if before is None else before
                kl = torch.nn.functional.kl_div(before, now, log_target=True, reduction="sum")
                loss = loss + options.kl_factor * kl
            assert base is not None
            loss = loss + options.weight_decay * delta.norm() / base.norm() ** 2
            if loss < options.stop_loss or step == options.steps - 1:
                break
            loss.backward()
            optimizer.step()
            limit = options.clamp * base.norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta.mul_(limit / delta.norm())
    assert base is not None
    return (base + delta).detach(), step
