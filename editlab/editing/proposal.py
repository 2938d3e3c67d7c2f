"""From a batch of facts to an update on the model: targets, keys, residuals, solve, store.

One closed-form batch: targets ``Z`` at the last edited layer; then, lowest layer first, keys ``K`` and the current
values ``H`` on the model as edited so far, residual ``R = (Z - H) / layers left`` (MEMIT, arXiv 2210.07229, section
4.3.2), and the solver's update. Replayed facts are further columns. The update goes through the store (raw or LoRA) and
the *effective change* that comes out is added to the weight before the next layer's keys are computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.algebra import postprocess
from editlab.algebra.linalg import Factors, SecondMoment
from editlab.algebra.solvers import Problem, SolverOptions, solve
from editlab.config.recipe import Recipe
from editlab.config.solvers import SOLVERS
from editlab.data.requests import EditRequest
from editlab.editing.finetune import finetune
from editlab.editing.keys import Contexts, compute_keys, compute_values, flat, lookup_rows, lookup_states
from editlab.editing.replay import ReplayItem, stack_targets
from editlab.editing.store import Store
from editlab.editing.stress import Stress
from editlab.editing.targets import TargetOptions, Targets, optimize_targets
from editlab.edits.edit import commit
from editlab.errors import NumericalError
from editlab.files.timing import Stopwatch
from editlab.networks.hooks import restored
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder
from editlab.randomness import derive_seed


@dataclasses.dataclass(frozen=True)
class Columns:
    """The facts of one solve: new ones first, then replayed ones.

    Attributes:
        z: (d_out, n) targets; None for fine-tuning, which has none.
        weights: (n,), or None: all one.
        margins: of the new facts, how much more likely the new object is than it was asked to be.
    """

    requests: list[EditRequest]
    z: Tensor | None
    weights: Tensor | None
    new: int
    margins: list[float]

    @classmethod
    def none(cls) -> Columns:
        """No facts: for changes that are not solved for any."""
        return cls([], None, None, 0, [])

    def subset(self, index: Sequence[int]) -> Columns:
        """The chosen facts, in their order."""
        if len(index) == len(self.requests):
            return self
        at = torch.tensor(list(index), dtype=torch.long)
        new = [i for i in index if i < self.new]
        return Columns(
            [self.requests[i] for i in index],
            None if self.z is None else self.z[:, at],
            None if self.weights is None else self.weights[at],
            len(new),
            [self.margins[i] for i in new],
        )


@dataclasses.dataclass
class Proposal:
    """An update that is on the model and may still be taken back.

    Attributes:
        columns: the facts it was solved for.
        problems: by layer, what was asked of the map.
        change: by layer, what the map gained.
    """

    columns: Columns
    problems: dict[int, Problem] = dataclasses.field(default_factory=dict)
    change: dict[int, Factors] = dataclasses.field(default_factory=dict)

    def gained(self, layer: int, change: Factors) -> None:
        """Count a further effective change of a layer."""
        self.change[layer] = self.change[layer] + change if layer in self.change else change


def solver_options(recipe: Recipe) -> SolverOptions:
    """The fields of a recipe that the solvers read."""
    names = {field.name for field in dataclasses.fields(SolverOptions)}
    return SolverOptions(**{k: v for k, v in recipe.model_dump().items() if k in names})


Solve = Callable[[], tuple[Factors, Problem]]
# Installs a layer's update in place of the plain way: (proposer, proposal, layer, solve from here) -> diagnostics.
Installer = Callable[["Proposer", Proposal, int, Solve], dict[str, Any]]


@dataclasses.dataclass
class Proposer:
    """Makes the update of a batch on the maps of one model.

    Attributes:
        weights: by layer, the edited map (d_out, d_in); writing to it edits the model.
        originals: their values before the first batch.
        history: by layer, sum of K K^T of earlier batches (AlphaEdit, ENCORE, NSE).
        install: how a solved update of a layer gets onto the map; None: whole and at once.
    """

    model: torch.nn.Module
    recipe: Recipe
    layers: list[int]
    contexts: Contexts
    moments: Mapping[int, SecondMoment]
    weights: dict[int, Tensor]
    store: Store
    seed: int
    stopwatch: Stopwatch
    originals: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    history: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    install: Installer | None = None

    def __post_init__(self) -> None:
        self.traits = SOLVERS[self.recipe.solver]
        self.options = solver_options(self.recipe)

    def targets(self, requests: Sequence[EditRequest], stress: Stress | None = None) -> Targets:
        """Target vectors at the last edited layer, on the weights that the recipe asks for."""
        recipe = self.recipe
        options = TargetOptions(
            recipe.steps, recipe.lr, recipe.clamp, recipe.weight_decay, recipe.kl_factor, recipe.stop_loss, recipe.stop
        )
        options = stress.options(options) if stress else options
        layer, site = self.layers[-1], self.traits.site
        rewind = recipe.rewind or recipe.solver == "nse"
        if rewind or recipe.norm_anchor:
            with restored(self.weights):
                put_back(self.weights, self.originals)
                anchor = compute_values(self.model, requests, layer, site).norm(dim=0)
                if rewind:
                    targets = optimize_targets(self.model, requests, layer, self.contexts, options, site=site)
        if not rewind:
            targets = optimize_targets(self.model, requests, layer, self.contexts, options, site=site)
        if recipe.norm_anchor:
            targets = dataclasses.replace(targets, z=targets.z * (anchor / targets.z.norm(dim=0)))
        return stress.targets(targets) if stress else targets

    def columns(self, requests: list[EditRequest], targets: Targets, replayed: list[ReplayItem]) -> Columns:
        """The facts of a solve, replayed ones with their stored (or recomputed) targets."""
        new, margins = len(requests), (-targets.loss).tolist()
        if not replayed:
            return Columns(requests, targets.z, None, new, margins)
        old = [item.request for item in replayed]
        z_old = self.targets(old).z if self.recipe.replay_targets == "recomputed" else stack_targets(replayed)
        z = torch.cat([targets.z, z_old.to(targets.z)], 1)
        return Columns(requests + old, z, self._weights(new, len(old)), new, margins)

    def _weights(self, new: int, old: int) -> Tensor:
        weights = torch.ones(new + old, dtype=torch.float64)
        weights[new:] = self.recipe.replay_weight
        return weights

    def propose(self, columns: Columns, event: dict[str, Any]) -> Proposal:
        """Solve and put on the model, lowest layer first."""
        proposal = Proposal(columns)
        event["layers"] = {}
        for number in range(self.recipe.max_iterations if self.traits.passes else 1):
            off = self._still_off(columns)
            if not off:
                break
            for position, layer in enumerate(self.layers):
                left = len(self.layers) - position
                event["layers"][str(layer)] = self._layer(proposal, columns.subset(off), layer, left, event["batch"])
            if self.traits.passes:
                event["passes"] = number + 1
        return proposal

    def put(
        self, proposal: Proposal, layer: int, update: Factors, problem: Problem | None = None, *, whole: bool = False
    ) -> dict[str, Any]:
        """Raw factors in, effective change onto the map: the one place where raw and LoRA edits differ."""
        change, found = self.store.add(layer, update, problem, whole=whole)
        commit({layer: self.weights[layer]}, {layer: change})
        proposal.gained(layer, change)
        return found

    def _layer(self, proposal: Proposal, columns: Columns, layer: int, left: int, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def solved() -> tuple[Factors, Problem]:
            with self.stopwatch.stage("keys"):
                problem = self.problem(columns, layer, left, index)
            with self.stopwatch.stage("solve"):
                solution = solve(self.recipe.solver, problem, self.options, postprocessed=not self.traits.once_at_end)
            proposal.problems.setdefault(layer, problem)
            found.update(solution.diagnostics)
            return solution.factors, problem

        if self.install is not None:
            return self.install(self, proposal, layer, solved) | found
        update, problem = solved()
        with self.stopwatch.stage("solve"):
            return found | self.put(proposal, layer, update, problem)

    def _still_off(self, columns: Columns) -> list[int]:
        """Facts to solve for: all of them, or with NSE's passes those whose residual norm is above alpha."""
        if not self.traits.passes:
            return list(range(len(columns.requests)))
        assert columns.z is not None
        values = compute_values(self.model, columns.requests, self.layers[-1], self.traits.site)
        gap = (columns.z.to(values) - values).norm(dim=0)
        return (gap > self.recipe.alpha).nonzero()[:, 0].tolist()

    def problem(self, columns: Columns, layer: int, layers_left: int, index: int) -> Problem:
        """What is asked of one map now: keys and residuals on the model as it is."""
        assert columns.z is not None
        rome_like = self.traits.site == "mlp"
        contexts = flat(self.contexts) if rome_like else self.contexts
        keys = compute_keys(self.model, columns.requests, layer, contexts)
        if self.recipe.solver == "r_rome":
            # One key everywhere (arXiv 2403.07175): the current value is that of the averaged key.
            values = self._mean_outputs(columns.requests, layer, contexts)
        else:
            values = compute_values(self.model, columns.requests, self.layers[-1], self.traits.site)
        clean = compute_keys(self.model, columns.requests, layer) if self.recipe.solver == "rome" else None
        return Problem(
            keys=keys,
            residual=(columns.z.to(values) - values) / layers_left,
            moment=self.moments.get(layer),
            weight=self.weights[layer].double(),
            original=self.originals[layer].double(),
            column_weights=columns.weights,
            history=self.history.get(layer),
            clean_keys=clean,
            seed=derive_seed("solve", self.seed, index, layer),
        )

    def _mean_outputs(self, requests: Sequence[EditRequest], layer: int, contexts: Contexts) -> Tensor:
        lookups = lookup_rows(Encoder(tokenizer_of(self.model)), requests, contexts)
        return lookups.average(lookup_states(self.model, lookups, mlps=[layer])["mlp", layer])

    def scaled(self, proposal: Proposal, scale: float) -> Proposal:
        """The change of a proposal that was taken back, at a smaller scale."""
        smaller = Proposal(proposal.columns, proposal.problems)
        for layer, change in proposal.change.items():
            self.put(smaller, layer, change.scaled(scale), proposal.problems.get(layer))
        return smaller

    def remember(self, proposal: Proposal) -> None:
        """The update stays: count its new keys for later batches (AlphaEdit's cache, the store's edit metric)."""
        new = proposal.columns.requests[: proposal.columns.new]
        for layer, problem in proposal.problems.items():
            self.store.remember(layer, problem.keys[:, : proposal.columns.new])
            if self.traits.history:
                keys = compute_keys(self.model, new, layer, self.contexts)  # anew, on the edited model, as published
                self.history[layer] = self.history.get(layer, torch.zeros(())) + keys @ keys.T

    def finetune(self, requests: list[EditRequest], replayed: list[ReplayItem], event: dict[str, Any]) -> Proposal:
        """Fine-tune the maps on the batch, where the recipe does that in place of a solve."""
        recipe, old = self.recipe, [item.request for item in replayed]
        deltas, loss = finetune(
            self.model,
            requests + old,
            self.layers,
            steps=recipe.steps,
            lr=recipe.lr,
            norm_constraint=recipe.norm_constraint,
            stop_loss=recipe.stop_loss,
            column_weights=self._weights(len(requests), len(old)),
        )
        if not all(bool(d.isfinite().all()) for d in deltas.values()):
            raise NumericalError("fine-tuning diverged: the update holds NaN or infinite values")
        proposal = Proposal(Columns(requests + old, None, None, len(requests), [-loss] * len(requests)))
        for layer, delta in deltas.items():
            self.put(proposal, layer, Factors.from_dense(delta))
        event["loss"] = loss
        event["layers"] = {str(k): {"update_norm": float(d.norm())} for k, d in deltas.items()}
        return proposal

    def restrain(self) -> dict[str, Any]:
        """The restraint that the published PRUNE applies once, to the total change."""
        found = {}
        for layer, weight in self.weights.items():
            d_out, d_in = weight.shape
            problem = Problem(
                keys=torch.zeros(d_in, 1),
                residual=torch.zeros(d_out, 1),
                weight=weight.double(),
                original=self.originals[layer].double(),
            )
            restraint = getattr(postprocess, str(self.traits.restraint))
            update, found[str(layer)] = restraint(Factors.zeros(d_out, d_in), problem, self.options)
            self.put(Proposal(Columns.none()), layer, update)
        return found


def put_back(weights: Mapping[int, Tensor], values: Mapping[int, Tensor]) -> None:
    """Write values into weights, bit for bit."""
    with torch.no_grad():
        for layer, weight in weights.items():
            weight.copy_(values[layer])
