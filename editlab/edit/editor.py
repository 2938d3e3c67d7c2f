"""The editing session: propose an update for a batch, guard it, commit it; then the next batch.

``EditSession`` edits a model batch after batch and gives it back bit for bit when it is left. :func:`edit` is the
one-call form: it returns an :class:`~editlab.edit.record.Edit` and leaves the model as it was.

One closed-form batch: targets ``Z`` at the last edited layer; then, lowest layer first, keys ``K`` and the current values
``H`` on the model as edited so far, residual ``R = (Z - H) / layers left`` (MEMIT, arXiv 2210.07229, section 4.3.2),
and the solver's update. Replayed facts are further columns. A solve that fails with replayed facts is tried without
them; one that still fails is rejected, and the model stays as it was before the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from editlab.architectures import Architecture
from editlab.config import Recipe, validated
from editlab.edit import postprocess
from editlab.edit.keys import Contexts, check_contexts, compute_keys, compute_values, flat, lookup_rows, lookup_states
from editlab.edit.record import Edit, commit
from editlab.edit.registry import SOLVERS
from editlab.edit.replay import ReplayBuffer, ReplayItem, stack_targets
from editlab.edit.solvers import Problem, SolverOptions, solve
from editlab.edit.targets import TargetOptions, Targets, optimize_targets
from editlab.errors import ConfigError, NumericalError
from editlab.hooks import restored
from editlab.linalg import Factors, SecondMoment
from editlab.models import tokenizer_of
from editlab.randomness import derive_seed
from editlab.requests import EditRequest
from editlab.timing import Stopwatch
from editlab.tokenization import Encoder

DEFAULT_CONTEXTS: Contexts = (("{}",),)


def edit(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    *,
    method: str = "memit",
    layers: Sequence[int] | None = None,
    statistics: Any = None,
    contexts: Contexts = DEFAULT_CONTEXTS,
    batch: int | None = None,
    replay: float = 0.0,
    seed: int = 0,
    progress: bool = False,
    **hyperparameters: Any,
) -> Edit:
    """Edit facts and return the change; the model itself is given back unchanged.

    Args:
        model: a transformers causal language model that carries its tokenizer (:func:`editlab.load_model`).
        requests: the facts (:func:`editlab.load_requests`).
        method: a solver: rome, r_rome, memit, emmet, alphaedit, rect, prune, prune_published, nse, encore, ft,
            random or none.
        layers: edited layers.
        statistics: second moments of the keys: a statistics file, a directory of them, or ``{layer: (d_in, d_in)}``.
        contexts: grouped templates such as ``[["{}"], ["Yes. {}", "I think. {}"]]``.
        batch: facts solved together; default all (ROME: one).
        replay: replayed facts per new fact.
        hyperparameters: fields of :class:`editlab.config.Recipe`, e.g. ``steps, lr, clamp, weight_decay, kl_factor,
            second_moment_weight, ridge, null_space_threshold, l2``.

    Returns:
        the edit; ``with edit.applied(model): ...`` uses it.

    Raises:
        ConfigError: unknown method or hyper-parameter, a value that is not allowed, missing statistics.
        NumericalError: a batch was rejected.
    """
    if method not in SOLVERS:
        raise ConfigError(f"method: {method!r} is not allowed; one of {', '.join(SOLVERS)}")
    if layers is None:
        raise ConfigError(f"layers: required; give one or more of 0..{Architecture(model).num_layers - 1}")
    if not requests:
        raise ConfigError("requests: none given; at least one is needed")
    recipe = validated(Recipe, {"solver": method, "layers": list(layers), **hyperparameters}, "edit")
    with EditSession(
        model, recipe, statistics=statistics, contexts=contexts, replay=replay, seed=seed
    ) as session:
        for chunk in batches(requests, batch or session.largest_batch or len(requests)):
            event = session.step(chunk)
            if event["decision"] == "rejected":
                raise NumericalError(f"edit rejected in batch {event['batch']}: {event['reason']}")
        session.finish()
        return session.edit()


def batches(requests: Sequence[EditRequest], size: int) -> Iterable[list[EditRequest]]:
    """Consecutive batches of ``size`` requests; the last may be smaller."""
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


@dataclasses.dataclass(frozen=True)
class Columns:
    """The facts of one solve: new ones first, then replayed ones, with their targets and weights."""

    requests: list[EditRequest]
    z: Tensor  # (d_out, n)
    weights: Tensor | None  # (n,), None: all one
    new: int


class EditSession:
    """Edits batch after batch; leaving the ``with`` block restores the model bit for bit.

    Args:
        recipe: the method.
        statistics: see :func:`edit`.
        replay: replayed facts per new fact.
        seed: of replay draws and of the random control.

    Attributes:
        events: one dictionary a batch: decision, diagnostics by layer, norms, replay, reason.
        stopwatch: seconds by stage.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        recipe: Recipe,
        *,
        statistics: Any = None,
        contexts: Contexts = DEFAULT_CONTEXTS,
        replay: float = 0.0,
        seed: int = 0,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.model, self.recipe, self.seed = model, recipe, seed
        self.architecture = Architecture(model)
        self.traits = SOLVERS[recipe.solver]
        if recipe.layers == "auto":
            raise ConfigError("layers: 'auto' must be resolved by the layer-choice rule; give a list here")
        self.layers = self.architecture.check_layers(recipe.layers)
        if self.traits.site == "mlp" and len(self.layers) > 1:
            raise ConfigError(f"layers: {recipe.solver} edits exactly one layer, got {self.layers}")
        if replay < 0:
            raise ConfigError(f"replay: {replay} is not allowed; 0 or more replayed facts per new fact")
        if replay and not self.traits.replay:
            raise ConfigError(f"replay: {recipe.solver} cannot take replayed facts; use 0")
        self.contexts = check_contexts(contexts)
        self.moments = self._moments(statistics)
        self.replay = replay
        self.buffer = ReplayBuffer(recipe.replay_capacity, recipe.replay_strategy, recipe.replay_eviction, seed)
        self.stopwatch = stopwatch or Stopwatch()
        self.weights = {layer: self.architecture.weight(layer) for layer in self.layers}
        self.totals = {layer: _Total(*self.architecture.weight_shape(layer)) for layer in self.layers}
        self.history: dict[int, Tensor] = {}
        self.events: list[dict[str, Any]] = []
        self._guard = restored(self.weights)
        self.originals: dict[int, Tensor] = {}

    @property
    def largest_batch(self) -> int | None:
        return self.traits.max_batch

    def __enter__(self) -> EditSession:
        self.originals = self._guard.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.__exit__(kind, error, trace)

    def edit(self) -> Edit:
        """Everything committed so far, as one edit."""
        info = {
            "method": self.recipe.solver,
            "recipe": self.recipe.model_dump(mode="json"),
            "layers": self.layers,
            "replay": self.replay,
            "seed": self.seed,
            "cases": [case for event in self.events if event["decision"] == "accepted" for case in event["cases"]],
        }
        return Edit({layer: total.factors() for layer, total in self.totals.items()}, info)

    def step(self, requests: Sequence[EditRequest]) -> dict[str, Any]:
        """Edit one batch and return its event; ROME and R-ROME take its facts one after another."""
        if self.largest_batch is not None and len(requests) > self.largest_batch:
            raise ConfigError(
                f"batch: {self.recipe.solver} edits {self.largest_batch} fact at a time, got {len(requests)}"
            )
        index = len(self.events)
        event: dict[str, Any] = {"batch": index, "cases": [r.case_id for r in requests], "decision": "accepted"}
        if self.traits.edits:
            before = {layer: weight.clone() for layer, weight in self.weights.items()}
            try:
                updates = self._propose(list(requests), index, event)
                with self.stopwatch.stage("commit"):
                    for layer, factors in updates.items():
                        self.totals[layer].add(factors)
            except NumericalError as error:
                _put_back(self.weights, before)
                event |= {"decision": "rejected", "reason": str(error)}
        event["weight_norm"] = {str(k): float(w.double().norm()) for k, w in self.weights.items()}
        self.events.append(event)
        return event

    def finish(self) -> None:
        """After the last batch: the restraint that the published PRUNE applies once, to the total change."""
        if not self.traits.once_at_end or not self.events:
            return
        for layer, weight in self.weights.items():
            d_out, d_in = weight.shape
            total = Factors.zeros(d_out, d_in)
            problem = Problem(
                keys=torch.zeros(d_in, 1),
                residual=torch.zeros(d_out, 1),
                weight=weight.double(),
                original=self.originals[layer].double(),
            )
            update, found = getattr(postprocess, str(self.traits.restraint))(total, problem, self._solver_options())
            commit({layer: weight}, {layer: update})
            self.totals[layer].add(update)
            self.events[-1].setdefault("finish", {})[str(layer)] = found

    def _propose(self, requests: list[EditRequest], index: int, event: dict[str, Any]) -> dict[int, Factors]:
        replayed = self.buffer.sample(self.replay, requests, index)
        event["replayed"] = len(replayed)
        if self.traits.gradient:
            return self._finetune(requests, replayed, index, event)
        with self.stopwatch.stage("targets"):
            targets = self._targets(requests)
            if not bool(targets.z.isfinite().all()):
                raise NumericalError("targets hold NaN or infinite values")
        event["targets"] = {
            "steps_mean": float(targets.steps.double().mean()),
            "loss_mean": float(targets.loss.mean()),
            "norm_mean": float(targets.z.norm(dim=0).mean()),
        }
        before = {layer: weight.clone() for layer, weight in self.weights.items()}
        try:
            updates = self._solve_layers(self._columns(requests, targets, replayed), index, event)
        except NumericalError as error:
            if not replayed:
                raise
            _put_back(self.weights, before)
            event |= {"replayed": 0, "replay_dropped": str(error)}
            updates = self._solve_layers(self._columns(requests, targets, []), index, event)
        self._remember_keys(requests)
        self._remember_facts(requests, targets.z, -targets.loss, index)
        return updates

    def _targets(self, requests: Sequence[EditRequest]) -> Targets:
        recipe = self.recipe
        options = TargetOptions(
            recipe.steps, recipe.lr, recipe.clamp, recipe.weight_decay, recipe.kl_factor, recipe.stop_loss, recipe.stop
        )
        layer, site = self.layers[-1], self.traits.site
        rewind = recipe.rewind or recipe.solver == "nse"
        if rewind or recipe.norm_anchor:
            with restored(self.weights):
                _put_back(self.weights, self.originals)
                anchor = compute_values(self.model, requests, layer, site).norm(dim=0)
                if rewind:
                    targets = optimize_targets(self.model, requests, layer, self.contexts, options, site=site)
        if not rewind:
            targets = optimize_targets(self.model, requests, layer, self.contexts, options, site=site)
        if recipe.norm_anchor:
            targets = dataclasses.replace(targets, z=targets.z * (anchor / targets.z.norm(dim=0)))
        return targets

    def _columns(self, requests: list[EditRequest], targets: Targets, replayed: list[ReplayItem]) -> Columns:
        if not replayed:
            return Columns(requests, targets.z, None, len(requests))
        old = [item.request for item in replayed]
        z_old = self._targets(old).z if self.recipe.replay_targets == "recomputed" else stack_targets(replayed)
        weights = torch.ones(len(requests) + len(old), dtype=torch.float64)
        weights[len(requests) :] = self.recipe.replay_weight
        return Columns(requests + old, torch.cat([targets.z, z_old.to(targets.z)], 1), weights, len(requests))

    def _solve_layers(self, columns: Columns, index: int, event: dict[str, Any]) -> dict[int, Factors]:
        """Lowest layer first; each update is committed before the next layer's keys are computed."""
        updates: dict[int, list[Factors]] = {layer: [] for layer in self.layers}
        event["layers"] = {}
        for number in range(self.recipe.max_iterations if self.traits.passes else 1):
            off = self._still_off(columns)
            if not len(off):
                break
            for position, layer in enumerate(self.layers):
                with self.stopwatch.stage("keys"):
                    problem = self._problem(_subset(columns, off), layer, len(self.layers) - position, index)
                with self.stopwatch.stage("solve"):
                    solution = solve(
                        self.recipe.solver, problem, self._solver_options(), postprocessed=not self.traits.once_at_end
                    )
                    commit({layer: self.weights[layer]}, {layer: solution.factors})
                updates[layer].append(solution.factors)
                event["layers"][str(layer)] = dict(solution.diagnostics)
            if self.traits.passes:
                event["passes"] = number + 1
        return {layer: Factors.concatenate(parts) for layer, parts in updates.items() if parts}

    def _still_off(self, columns: Columns) -> Tensor:
        """Facts to solve for: all of them, or with NSE's passes those whose residual norm is above alpha."""
        if not self.traits.passes:
            return torch.arange(len(columns.requests))
        values = compute_values(self.model, columns.requests, self.layers[-1], self.traits.site)
        gap = (columns.z.to(values) - values).norm(dim=0)
        return (gap > self.recipe.alpha).nonzero()[:, 0].cpu()

    def _problem(self, columns: Columns, layer: int, layers_left: int, index: int) -> Problem:
        rome_like = self.traits.site == "mlp"
        contexts = flat(self.contexts) if rome_like else self.contexts
        keys = compute_keys(self.model, columns.requests, layer, contexts)
        if self.recipe.solver == "r_rome":
            # One key everywhere (arXiv 2403.07175): the current value is that of the averaged key.
            values = self._mean_outputs(columns.requests, layer, contexts)
        else:
            values = compute_values(self.model, columns.requests, self.layers[-1], self.traits.site)
        clean = compute_keys(self.model, columns.requests, layer) if self.recipe.solver == "rome" else None
        moment = self.moments.get(layer)
        return Problem(
            keys=keys,
            residual=(columns.z.to(values) - values) / layers_left,
            moment=None if moment is None else moment.to(keys.device),
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

    def _solver_options(self) -> SolverOptions:
        names = {field.name for field in dataclasses.fields(SolverOptions)}
        return SolverOptions(**{k: v for k, v in self.recipe.model_dump().items() if k in names})

    def _remember_keys(self, requests: list[EditRequest]) -> None:
        """AlphaEdit's cache: K K^T of the new facts, keys recomputed on the edited model."""
        if not self.traits.history:
            return
        for layer in self.layers:
            keys = compute_keys(self.model, requests, layer, self.contexts)
            self.history[layer] = self.history.get(layer, torch.zeros(())) + keys @ keys.T

    def _remember_facts(
        self, requests: list[EditRequest], targets: Tensor | None, margins: Tensor | Sequence[float], index: int
    ) -> None:
        if self.replay:
            self.buffer.insert(requests, targets, [float(m) for m in margins], index)

    def _finetune(
        self, requests: list[EditRequest], replayed: list[ReplayItem], index: int, event: dict[str, Any]
    ) -> dict[int, Factors]:
        from editlab.edit.finetune import finetune

        recipe = self.recipe
        everything = requests + [item.request for item in replayed]
        weights = torch.tensor([1.0] * len(requests) + [recipe.replay_weight] * len(replayed))
        with self.stopwatch.stage("solve"):
            deltas, loss = finetune(
                self.model,
                everything,
                self.layers,
                steps=recipe.steps,
                lr=recipe.lr,
                norm_constraint=recipe.norm_constraint,
                stop_loss=recipe.stop_loss,
                column_weights=weights,
            )
            if not all(bool(d.isfinite().all()) for d in deltas.values()):
                raise NumericalError("fine-tuning diverged: the update holds NaN or infinite values")
            updates = {layer: Factors.from_dense(delta) for layer, delta in deltas.items()}
            commit(self.weights, updates)
        event["loss"] = loss
        event["layers"] = {str(k): {"update_norm": float(d.norm())} for k, d in deltas.items()}
        self._remember_facts(requests, None, [-loss] * len(requests), index)
        return updates

    def _moments(self, statistics: Any) -> dict[int, SecondMoment]:
        from editlab.statistics import resolve_statistics

        rank_one = self.traits.site == "mlp"  # ROME uses C where it is given
        if statistics is None and not self.traits.moment or not (self.traits.moment or rank_one):
            return {}
        moments = resolve_statistics(statistics, self.layers)
        for layer in self.layers:
            if layer not in moments:
                raise ConfigError(f"statistics: {self.recipe.solver} needs the second moment of layer {layer}")
            d_in = self.architecture.weight_shape(layer)[1]
            if moments[layer].size != d_in:
                raise ConfigError(f"statistics: layer {layer} has size {moments[layer].size}; the model needs {d_in}")
        return moments


class _Total:
    """Sum of updates of one map: factors while their rank is small, one dense matrix after that. Memory stays flat."""

    def __init__(self, d_out: int, d_in: int) -> None:
        self.sum = Factors.zeros(d_out, d_in)
        self.dense: Tensor | None = None

    def add(self, factors: Factors) -> None:
        factors = factors.to(device="cpu")
        if self.dense is None and self.sum.rank + factors.rank <= min(self.sum.shape):
            self.sum = self.sum + factors
            return
        if self.dense is None:
            self.dense = self.sum.dense()
        self.dense += factors.dense()

    def factors(self) -> Factors:
        return self.sum if self.dense is None else Factors.from_dense(self.dense.clone())


def _put_back(weights: Mapping[int, Tensor], values: Mapping[int, Tensor]) -> None:
    with torch.no_grad():
        for layer, weight in weights.items():
            weight.copy_(values[layer])


def _subset(columns: Columns, index: Tensor) -> Columns:
    if len(index) == len(columns.requests):
        return columns
    chosen = index.tolist()
    return Columns(
        [columns.requests[i] for i in chosen],
        columns.z[:, index],
        None if columns.weights is None else columns.weights[index],
        sum(i < columns.new for i in chosen),
    )


