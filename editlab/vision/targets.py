"""What the CLS state after the last edited block should be, so that an image gets its class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.errors import NumericalError
from editlab.networks.hooks import frozen
from editlab.networks.vision import CLS, Classifier


def find_targets(classifier: Classifier, hidden: Tensor, layer: int, targets: Tensor, recipe: Any) -> Tensor:
    """Gradient steps on the CLS state ``h`` towards a class: ``z = h + delta`` (n, d).

    Minimises cross-entropy + ``target_decay`` |delta|^2 by Adam, with ``|delta| <= clamp |h|`` after every step. Unclamped,
    the steps run far past the class's border and the edit costs accuracy elsewhere.

    Args:
        hidden: (n, length, d), output of block ``layer``; above it everything stays as it is.
        targets: (n,) classes.
        recipe: an MLP recipe of :mod:`editlab.config.vision`.

    Raises:
        NumericalError: the loss is not finite.
    """
    if layer == classifier.num_layers - 1:
        hidden = hidden[:, : CLS + 1]  # the head sees CLS alone
    state = hidden[:, CLS].detach()
    limit = None if recipe.clamp is None else recipe.clamp * state.norm(dim=-1, keepdim=True)
    delta = torch.zeros_like(state, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=recipe.lr)
    active = torch.ones(len(state), dtype=torch.bool, device=state.device)
    with frozen(classifier.model), torch.enable_grad():
        for _ in range(recipe.steps):
            moved = torch.cat([(state + delta)[:, None], hidden[:, CLS + 1 :]], dim=1)
            losses = F.cross_entropy(classifier.logits(classifier.through(moved, layer + 1)), targets, reduction="none")
            if not bool(losses.isfinite().all()):
                raise NumericalError("targets: the loss is not finite; lower lr or set a clamp")
            if recipe.stop_loss is not None:
                active = losses.detach() >= recipe.stop_loss
                if not bool(active.any()):
                    break
            before = delta.detach().clone()
            optimizer.zero_grad()
            (losses + recipe.target_decay * delta.square().sum(-1)).sum().backward()
            optimizer.step()
            with torch.no_grad():
                if limit is not None:
                    delta.mul_((limit / delta.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp(max=1.0))
                delta.copy_(torch.where(active[:, None], delta, before))
    return (state + delta).detach()
