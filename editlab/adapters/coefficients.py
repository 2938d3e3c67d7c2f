"""The linear hyper-network: from a description to coefficients of the training teachers, summed as products.

    c(x) = 1/n + x M_p W,        x M_p = (k(x) (K + p I)^-1), centred:  the weights that ridge gives to the training tasks

for a penalty p and W (n, n). *Supervision by weights* is ridge regression of the teachers' products: W = I, in closed
form. *Supervision by deltas* starts from the mean adapter, W = 0, and trains W by gradient through the base until the sums
do on the probes what the teachers do; with *both* the products' errors are added to that loss. All three have one span and one
form, so what differs is the supervision alone, and for each the penalty (and the step, where there are steps) is the one with
the most letters on validation tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.adapters.losses import delta_loss, span_loss
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
        log: what was tried: rows of step, penalty and validation letters.
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
    """Supervision by weights: the ridge solution whose penalty has the most letters on the validation tasks."""
    return _best_penalty(data, torch.eye(len(data.train), dtype=torch.float64), 0, options, scorer, validation)[0]


def _best_penalty(
    data: TrainingSet, turn: Tensor, step: int, options: Coefficients, scorer: Scorer, validation: Sequence[str]
) -> tuple[LinearHyperNetwork, float]:
    """The network of W = ``turn`` under the best penalty, and its letters."""

    def network(penalty: float) -> LinearHyperNetwork:
        return LinearHyperNetwork(data, data.kernel.matrix(penalty) @ turn.double(), [])

    penalty, letters = best_by_letters(
        options.penalties,
        scorer,
        validation,
        lambda p: data.changes(validation, network(p).coefficients(validation)),
    )
    tried = zip(options.penalties, letters, strict=True)
    log = [{"step": float(step), "penalty": p, "letters": found} for p, found in tried]
    return dataclasses.replace(network(penalty), log=log), max(letters)


def delta_network(
    data: TrainingSet,
    options: Coefficients,
    scorer: Scorer,
    validation: Sequence[str],
    seed: int,
    *,
    weights: bool = False,
) -> LinearHyperNetwork:
    """Supervision by deltas, from the mean adapter; ``weights``: by deltas and weights.

    It is trained at the smallest penalty, where the training tasks are told apart best. Muon moves W: what is wanted of it is
    near a rotation, and steps of one length in all directions reach that in a tenth of the steps that AdamW needs.
    """
    count = len(data.train)
    seen = (data.kernel.train @ data.kernel.matrix(min(options.penalties))).float()
    turn = torch.zeros(count, count, requires_grad=True)
    sizes = [wanted.square().sum(dim=1).mean() for _, wanted in data.lessons]
    optimizer = torch.optim.Muon([turn], options.lr, weight_decay=0.0)
    rng = python_rng("adapters", "coefficients", seed, weights)
    any_penalty = options.model_copy(update={"penalties": options.penalties[:1]})  # the mean adapter has none
    best, best_letters = _best_penalty(data, turn.detach(), 0, any_penalty, scorer, validation)
    log = list(best.log)
    for step in range(1, options.steps + 1):
        rows = rng.sample(range(count), min(options.batch, count))
        lesson = rng.randrange(len(data.lessons))
        probes, wanted = data.lessons[lesson]
        optimizer.param_groups[0]["lr"] = options.lr * trapezoid(step - 1, options.steps, 0.1, 0.5)
        optimizer.zero_grad()
        coefficients = 1 / count + seen[rows] @ turn
        products = data.weighted(coefficients)
        with frozen(data.model):
            loss = delta_loss(probes.supervise(data.model, products, len(rows)), wanted[rows], sizes[lesson])
        if weights:
            loss = loss + span_loss(coefficients, rows, data.grams)
        loss.backward()
        optimizer.step()
        if step % options.every == 0 or step == options.steps:
            network, letters = _best_penalty(data, turn.detach(), step, options, scorer, validation)
            log += [{**row, "loss": float(loss.detach())} for row in network.log]
            if letters > best_letters:
                best, best_letters = network, letters
    return dataclasses.replace(best, log=log)
