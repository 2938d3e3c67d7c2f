"""The linear hyper-network: from a description to coefficients of the training teachers, summed as products.

With supervision on weights this is ridge regression of the products on text features, in closed form. With supervision
on deltas the same map, ``c(x) = 1/n + x M``, is trained by gradient through the base from the mean adapter (M = 0); with
both it starts from the ridge solution and also stays near its weights. All three have the same span, so what differs is
the supervision alone. Penalties and the stopping step are chosen by letters on validation tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.adapters.losses import delta_loss, product_loss
from editlab.adapters.scoring import Scorer, best_by_letters
from editlab.adapters.training_set import TrainingSet
from editlab.config.adapters import Coefficients
from editlab.networks.hooks import frozen
from editlab.randomness import python_rng
from editlab.training.schedule import trapezoid


@dataclasses.dataclass(frozen=True, eq=False)
class LinearHyperNetwork:
    """``c(x) = 1/n + x M``.

    Attributes:
        matrix: M (F, n), for features as the kernel centres and scales them.
        log: what was tried: rows of setting and validation letters.
    """

    data: TrainingSet
    matrix: Tensor
    log: list[dict[str, float]]

    def coefficients(self, names: Sequence[str]) -> Tensor:
        """(len(names), n) for the descriptions of these tasks."""
        features = self.data.kernel.scaled(self.data.text(names))
        return 1 / len(self.data.train) + features @ self.matrix.to(features)


def ridge_network(
    data: TrainingSet, options: Coefficients, scorer: Scorer, validation: Sequence[str]
) -> LinearHyperNetwork:
    """Supervision on weights: the ridge solution whose penalty has the most letters on the validation tasks."""

    def network(penalty: float) -> LinearHyperNetwork:
        return LinearHyperNetwork(data, data.kernel.matrix(penalty), [])

    penalty, letters = best_by_letters(
        options.penalties,
        scorer,
        validation,
        lambda p: data.changes(validation, network(p).coefficients(validation)),
    )
    log = [{"setting": p, "letters": x} for p, x in zip(options.penalties, letters, strict=True)]
    return dataclasses.replace(network(penalty), log=log)


def delta_network(
    data: TrainingSet,
    options: Coefficients,
    scorer: Scorer,
    validation: Sequence[str],
    seed: int,
    start: LinearHyperNetwork | None = None,
) -> LinearHyperNetwork:
    """Supervision on deltas, from the mean adapter; with ``start`` on weights and deltas, from that network.

    The step with the most letters on the validation tasks is kept, the start included.
    """
    features = data.kernel.train.float()
    first = torch.zeros(features.shape[1], len(data.train)) if start is None else start.matrix.float()
    matrix = first.clone().requires_grad_()
    sizes = [wanted.square().sum(dim=1).mean() for _, wanted in data.lessons]
    optimizer = torch.optim.AdamW([matrix], options.lr, weight_decay=0.0)
    rng = python_rng("adapters", "coefficients", seed, start is None)
    best = LinearHyperNetwork(data, first, [])
    best_letters = scorer.letters(validation, data.changes(validation, best.coefficients(validation)))
    log = [{"setting": 0.0, "letters": best_letters}]
    for step in range(1, options.steps + 1):
        rows = rng.sample(range(len(data.train)), min(options.batch, len(data.train)))
        lesson = rng.randrange(len(data.lessons))
        probes, wanted = data.lessons[lesson]
        optimizer.param_groups[0]["lr"] = options.lr * trapezoid(step - 1, options.steps, 0.1, 0.5)
        optimizer.zero_grad()
        products = data.weighted(1 / len(data.train) + features[rows] @ matrix)
        with frozen(data.model):
            loss = delta_loss(probes.supervise(data.model, products, len(rows)), wanted[rows], sizes[lesson])
        if start is not None:
            loss = loss + product_loss(products, {k: (b[rows], a[rows]) for k, (b, a) in data.teachers.items()})
        loss.backward()
        optimizer.step()
        if step % options.every == 0 or step == options.steps:
            network = LinearHyperNetwork(data, matrix.detach().clone(), [])
            letters = scorer.letters(validation, data.changes(validation, network.coefficients(validation)))
            log.append({"setting": float(step), "letters": letters, "loss": float(loss.detach())})
            if letters > best_letters:
                best, best_letters = network, letters
    return dataclasses.replace(best, log=log)
