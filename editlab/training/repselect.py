"""RepSelect: forget along the weak directions of the gradient, which retraining does not find again (arXiv 2606.17168).

One pass of SGD on a LoRA *learns* the texts to forget, so that what is hidden shows in the gradient. With that LoRA frozen
in place, the gradient of ``-NLL`` is summed over the texts for every MLP matrix; its strongest singular components, which
any text of the kind shares, are collapsed, and the weights take one step along what is left. Once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.config.unlearning import SelectedRepresentations
from editlab.networks.architectures import Architecture
from editlab.training import losses
from editlab.training.batches import Batch
from editlab.training.parametrisation import Trainable, lora


def collapse(gradient: Tensor, options: SelectedRepresentations) -> Tensor:
    """The gradient with its strongest components ``s_i`` weakened to ``s_i / (s_i / s_min)`` (linear),
    ``s_i / (s_i / s_min)^2`` (quadratic) or removed (hard); weaker ones than ``s_min`` stay as they are.

    ``options.components`` are looked at, of a small matrix half at most, so that something stays.
    """
    count = max(1, min(options.components, min(gradient.shape) // 2))
    u, s, vt = torch.linalg.svd(gradient.float(), full_matrices=False)
    floor = s[count - 1].clamp(min=torch.finfo(s.dtype).tiny)
    ratio = (s[:count] / floor).clamp(min=1.0)
    kept = {"linear": s[:count] / ratio, "quadratic": s[:count] / ratio**2, "hard": torch.zeros_like(ratio)}
    s = torch.cat([kept[options.collapse], s[count:]])
    return (u * s) @ vt


def elicit(model: Any, batches: Sequence[Batch], options: SelectedRepresentations, seed: int) -> Trainable:
    """A LoRA that has learned the texts in one pass of SGD; the weights below it do not move."""
    helper = lora(model, options.elicit_rank, seed)
    optimizer = torch.optim.SGD(helper.parameters.values(), lr=options.elicit_lr)
    for batch in batches:
        optimizer.zero_grad()
        losses.token_loss(helper.model(**batch.inputs).logits, batch.ids, batch.learned).backward()
        optimizer.step()
    return helper


def forgetting_step(
    model: Any, batches: Sequence[Batch], options: SelectedRepresentations, lr: float, seed: int
) -> dict[str, float]:
    """One epoch: elicit, sum the gradient of ``-NLL`` over the batches, collapse it, step. Changes ``model`` in place.

    Returns:
        ``forget``: minus the mean loss of the elicited model, the term that the step descends.
    """
    mlps = _mlp_matrices(model)
    helper = elicit(model, batches, options, seed)
    for parameter in helper.parameters.values():
        parameter.requires_grad_(False)
    for weight in mlps:
        weight.requires_grad_(True)
    total = 0.0
    for batch in batches:
        loss = -losses.token_loss(helper.model(**batch.inputs).logits, batch.ids, batch.learned)
        loss.backward()
        total += float(loss.detach())
    helper.model.unload()  # type: ignore[operator]
    with torch.no_grad():
        for weight in mlps:
            if weight.grad is not None and bool(weight.grad.isfinite().all()):
                weight -= lr * collapse(weight.grad, options).to(weight.dtype)
            weight.grad = None
    return {"forget": total / max(1, len(batches)) if math.isfinite(total) else total}


def _mlp_matrices(model: Any) -> list[Any]:
    architecture = Architecture(model)
    return [p for i in range(architecture.num_layers) for p in architecture.mlp(i).parameters() if p.ndim == 2]
