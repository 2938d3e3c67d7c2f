"""Edits of the classifier head alone: gradient steps held by Fisher information, and one closed-form solve.

The head is ``W f + b`` on the normalised CLS state f; with a constant 1 appended to f it is one linear map (classes, d + 1),
so that the solvers of :mod:`editlab.algebra` apply. In an :class:`~editlab.edits.edit.Edit` its weight and bias are the two
maps after the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Problem
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import solve
from editlab.config.solvers import Emmet
from editlab.config.vision import HeadClosedForm, HeadEwc
from editlab.edits.edit import Edit
from editlab.errors import ConfigError, NumericalError
from editlab.networks.vision import Classifier
from editlab.vision.pixels import ImageSet, Prefix
from editlab.vision.samples import Draw


def final_features(classifier: Classifier, images: ImageSet) -> Tensor:
    """What the head sees, with a constant 1: (n, d + 1), float64."""
    prefix = Prefix(classifier, images)
    with torch.no_grad():
        parts = [classifier.features(hidden) for hidden in prefix.batches(classifier.num_layers)]
    features = torch.cat(parts).double().cpu()
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


@dataclass(frozen=True, eq=False)
class Head:
    """The head as one map, with the features that its edits need.

    Attributes:
        classifier: whose head it is.
        weight: (classes, d + 1), bias last.
        preserved: (m, d + 1) features of right FT-Train images.
        discovery: (n, d + 1) features of the discovery set.
        labels: (n,) of the discovery set.
    """

    classifier: Classifier
    weight: Tensor
    preserved: Tensor
    discovery: Tensor
    labels: Tensor

    @classmethod
    def of(cls, classifier: Classifier, preserved: ImageSet, discovery: ImageSet) -> Head:
        """The head of a classifier."""
        last = classifier.num_layers
        parts = [classifier.architecture.weight(k).double().cpu() for k in (last, last + 1)]
        features = final_features(classifier, preserved), final_features(classifier, discovery)
        return cls(classifier, torch.cat(parts, dim=1), *features, discovery.labels)

    def edit(self, change: Factors, recipe: Any, draw: Draw) -> Edit:
        """A change of the map as an edit of weight and bias."""
        last, d = self.classifier.num_layers, self.weight.shape[1] - 1
        parts = {
            last: Factors(change.left, change.right[:, :d]),
            last + 1: Factors(change.left.clone(), change.right[:, d:]),
        }
        info = {"study": "vision", "recipe": recipe.model_dump(mode="json"), "rows": draw.rows.tolist()}
        return Edit(parts, info)

    def net_gain(self, weight: Tensor) -> int:
        """Discovery images that ``weight`` gets right, minus those that the head got right."""
        after, before = ((self.discovery @ w.T).argmax(-1) == self.labels for w in (weight, self.weight))
        return int(after.sum() - before.sum())


def closed_form(head: Head, draw: Draw, recipe: HeadClosedForm) -> tuple[Edit, dict[str, Any]]:
    """The least change, in the metric of the features' second moment, that lets each target lead by a margin.

    The residual is on the target's logit alone: its gap to the best other logit, plus the margin, where it is behind.

    Raises:
        ConfigError: more samples than the head has inputs, with ``ridge`` 0.
    """
    features, targets = head.discovery[draw.rows], torch.as_tensor(draw.targets)
    if recipe.ridge == 0 and len(features) > head.weight.shape[1]:
        raise ConfigError(
            f"head_closed_form: {len(features)} samples with ridge 0; allowed are at most {head.weight.shape[1]}, "
            "or a ridge above 0"
        )
    logits = features @ head.weight.T
    mine = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -torch.inf).max(-1).values
    residual = torch.zeros_like(logits)
    residual.scatter_(1, targets[:, None], (others + recipe.margin - mine).clamp_min(0.0)[:, None])
    preserved = head.preserved[: recipe.moment_samples]
    moment = SecondMoment(preserved.T @ preserved / len(preserved), len(preserved))
    solution = solve(Problem(features.T, residual.T, moment), Emmet(ridge=recipe.ridge))
    return head.edit(solution.factors, recipe, draw), dict(solution.diagnostics)


def expected_fisher(features: Tensor, weight: Tensor) -> Tensor:
    """Diagonal Fisher information (classes, d + 1) under the model's own distribution: ``E[p_j (1 - p_j) f_k^2]``.

    The empirical Fisher of samples that a fitted model gets right is almost zero and would protect nothing.
    """
    p = (features @ weight.T).softmax(-1)
    return (p * (1 - p)).T @ features.square() / len(features)


def ewc(head: Head, draw: Draw, recipe: HeadEwc) -> tuple[Edit, dict[str, Any]]:
    """Gradient steps on ``CE + lambda / 2 sum F (w - w0)^2`` (Kirkpatrick et al. 2017, eq. 3); discovery chooses lambda.

    Raises:
        NumericalError: the steps diverge with every lambda.
    """
    fisher = expected_fisher(head.preserved[: recipe.fisher_samples], head.weight)
    features, targets = head.discovery[draw.rows], torch.as_tensor(draw.targets)
    found = {penalty: _descend(head.weight, fisher, features, targets, penalty, recipe) for penalty in recipe.penalties}
    finite = {penalty: weight for penalty, weight in found.items() if bool(weight.isfinite().all())}
    if not finite:
        raise NumericalError(f"head_ewc: the steps diverge with lambda {recipe.penalties}; lower lr")
    best = max(finite, key=lambda penalty: head.net_gain(finite[penalty]))
    change = Factors.from_dense(finite[best] - head.weight).compressed()
    told = {"penalty": best, "update_norm": change.norm(), "mean_fisher": float(fisher.mean())}
    return head.edit(change, recipe, draw), told


def _descend(
    start: Tensor, fisher: Tensor, features: Tensor, targets: Tensor, penalty: float, recipe: HeadEwc
) -> Tensor:
    weight = start.clone().requires_grad_(True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.SGD
    optimizer = kind([weight], lr=recipe.lr)
    for _ in range(recipe.steps):
        loss = F.cross_entropy(features @ weight.T, targets) + penalty / 2 * (fisher * (weight - start).square()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()
