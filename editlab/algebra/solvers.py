"""Closed-form edits: pure functions from keys, residuals and the second moment to the low-rank factors of an update.

Given keys ``K`` (d_in, n), residuals ``R`` (d_out, n) and the second moment ``C``, almost every method solves one
problem: make ``dW K`` close to ``R`` while the outputs on ordinary inputs move little. With ``A = lambda C + H + mu I``
(H: keys of earlier edits) and a penalty p the optimum of ``|dW K - R|^2 + p tr(dW A dW^T)`` is

    dW = R K^T (p A + K K^T)^-1  =  R (p I + K^T A^-1 K)^-1 K^T A^-1,

a d x d system on the left, an n x n one on the right (Woodbury; O(d^2 n) with the Cholesky factor of C at hand).
MEMIT is p = 1; EMMET, the equality-constrained optimum, is p = gamma, in the limit 0; ROME is its single column;
AlphaEdit is the same in coordinates of the null space of C, with A = L2 I + H. A solver is one
function here, registered for its options class (:mod:`editlab.config.solvers`); :func:`solve` checks the input, finds the
function by the class of the options, measures the result and refuses non-finite numbers.

Sources: ROME arXiv 2202.05262, R-ROME 2403.07175, MEMIT 2210.07229, EMMET 2403.14236, AlphaEdit 2410.02355,
NSE 2410.04045, ENCORE 2502.01636, EvoEdit 2510.13851, BetaEdit 2605.09285, UltraEdit 2505.14679, RECT 2401.04700,
PRUNE 2405.16821, SPHERE 2510.01172.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor

from editlab.algebra.history import History
from editlab.algebra.linalg import Factors
from editlab.algebra.null_space_solves import in_null_space, in_shrinking_null_space
from editlab.algebra.postprocess import keep_largest_relative, off_principal, restrain_total
from editlab.algebra.problem import Diagnostics, Form, Problem, Result, Solution, moment_of
from editlab.algebra.regularized import Penalty, Ridge, describe, solve_penalised
from editlab.config.solver import Solver
from editlab.config.solvers import (
    AlphaEdit,
    ClosedForm,
    Emmet,
    Encore,
    EvoEdit,
    Memit,
    Moment,
    NoUpdate,
    Nse,
    Prune,
    RandomUpdate,
    Rect,
    Rome,
    RRome,
    Ultra,
)
from editlab.errors import ConfigError, NumericalError
from editlab.randomness import torch_rng


def solve(problem: Problem, options: Solver) -> Solution:
    """The update of one batch by the solver that the options belong to.

    Raises:
        ConfigError: more facts than the solver takes, or an input that it needs is missing.
        NumericalError: non-finite input or output, or a system ill-conditioned with every ridge.
        ValueError: shapes that do not fit.
    """
    facts = problem.checked(weight=options.reads_weight, original=options.original)
    _require_inputs(facts, options)
    change, found = update(options, facts.weighted()) if facts.facts else _nothing(facts)
    if isinstance(options, ClosedForm) and options.sphere and facts.facts:
        change, more = off_principal(change, facts, options.sphere, options.sphere_energy)
        found |= more
    if not (change.left.isfinite().all() and change.right.isfinite().all()):
        raise NumericalError(f"{options.name}: the update holds NaN or Inf")
    if facts.moment is not None and facts.moment.refined is not None:
        found["refined_residual"] = facts.moment.refined
    return Solution(change, found | _measured(change, facts))


def _require_inputs(problem: Problem, options: Solver) -> None:
    if options.max_batch is not None and problem.facts > options.max_batch:
        allowed = f"allowed is batch {options.max_batch}, one edit after another"
        raise ConfigError(f"solver {options.name}: batch of {problem.facts} facts; {allowed}")
    needed = {"moment": options.moment, "weight": options.reads_weight, "original": options.original}
    for field, value in (("moment", problem.moment), ("weight", problem.weight), ("original", problem.original)):
        if needed[field] and value is None:
            raise ConfigError(f"solver {options.name}: {field} is missing; the method cannot do without it")


def _measured(change: Factors, problem: Problem) -> Diagnostics:
    """Residual, norm and rank of a finished update, on the facts as given (not scaled by their weights)."""
    target = float(problem.residual.norm())
    gap = float((change.apply(problem.keys) - problem.residual).norm())
    return {
        "facts": problem.facts,
        "rank": change.rank,
        "residual": gap / target if target > 0 else gap,
        "update_norm": change.norm(),
    }


@functools.singledispatch
def update(options: Solver, problem: Problem) -> Result:
    """The update of a checked problem of unit weights: the function that is registered for the class of the options."""
    raise ConfigError(f"solver: {options.name!r} has no closed form; it fine-tunes (editlab.editing.finetune)")


@update.register
def rome(options: Rome, problem: Problem) -> Result:
    """``r u^T / (u^T k)`` with ``u = C^-1 k`` normalised (ROME, eq. 2); k below the line is the clean key if given."""
    key, clean = problem.keys, problem.keys if problem.clean_keys is None else problem.clean_keys
    direction, ridge = key, 0.0
    if problem.moment is not None and options.mom2_adjustment:
        direction, ridge = _penalty(options, problem).solve(key)
    length = torch.linalg.vector_norm(direction)
    if not float(length) > 0:
        raise NumericalError("rome: the key is zero")
    direction = direction / length
    gain = float((direction * clean).sum())
    condition = float(torch.linalg.vector_norm(clean)) / abs(gain) if gain else math.inf
    if not condition <= options.condition_limit:
        raise NumericalError(f"rome: the clean key is orthogonal to the update direction (condition {condition:.1e})")
    raised = [ridge] if ridge else []
    return Factors(problem.residual / gain, direction.T), describe("rank one", condition, raised, ridge)


@update.register
def r_rome(options: RRome, problem: Problem) -> Result:
    """ROME with one and the same key throughout (R-ROME: the mixed denominator is what made ROME collapse)."""
    return rome(options, replace(problem, clean_keys=None))


@update.register
def memit(options: Memit, problem: Problem) -> Result:
    """``R K^T (lambda C + K K^T)^-1`` (MEMIT, eq. 14)."""
    return solve_penalised(problem, _penalty(options, problem), 1.0, "memit system")


@update.register
def emmet(options: Emmet, problem: Problem) -> Result:
    """``R (K^T A^-1 K + gamma I)^-1 K^T A^-1`` with ``A = lambda C + mu I`` (EMMET)."""
    gamma = options.ridge if options.ridge is not None else (0.1 if problem.facts > 1 else 0.0)
    return solve_penalised(problem, _penalty(options, problem), gamma, "emmet system")


@update.register
def encore(options: Encore, problem: Problem) -> Result:
    """``R K^T (lambda C + H + K K^T + update_norm_weight I)^-1`` (ENCORE)."""
    penalty = _penalty(options, problem, options.update_norm_weight, problem.history)
    return solve_penalised(problem, penalty, 1.0, "encore system")


@update.register
def ultra(options: Ultra, problem: Problem) -> Result:
    """``R K^T (lambda C + H + alpha I + K K^T)^-1``, one column a predicted token (UltraEdit: without C and H, alpha = 1)."""
    if problem.moment is None or not options.second_moment_weight:
        bare = Ridge(problem.keys, options.ridge, problem.history, options.condition_limit)
        return solve_penalised(problem, bare, 1.0, "ultra system")
    weight, limit = options.second_moment_weight, options.condition_limit
    penalty = Penalty(problem.moment, weight, options.ridge, problem.history, limit)
    return solve_penalised(problem, penalty, 1.0, "ultra system")


@update.register
def alphaedit(options: AlphaEdit, problem: Problem) -> Result:
    """``R K^T P (K K^T P + (H + lambda C) P + L2 I)^-1`` (AlphaEdit: lambda = 0; BetaEdit)."""
    return in_null_space(options, problem)


@update.register
def evoedit(options: EvoEdit, problem: Problem) -> Result:
    """``R (J^T J + L2 I)^-1 J^T`` with ``J = P' K``, P' without the span of the earlier keys (EvoEdit)."""
    return in_shrinking_null_space(options, problem)


def select_neurons(keys: Tensor, share: float) -> Tensor:
    """(s,) ascending indices of the inputs with the largest summed |key| over the facts (columns of keys (d_in, n)).

    As published, the longest prefix of the sorted scores whose sum stays within ``share`` of the total; at least one. A share
    of 1 is all of them, however the sums are rounded.
    """
    if share >= 1:
        return torch.arange(len(keys), device=keys.device)
    scores, order = torch.sort(keys.abs().sum(dim=1), descending=True, stable=True)
    count = int((scores.cumsum(0) <= share * scores.sum()).sum())
    return order[: max(1, count)].sort().values


@update.register
def nse(options: Nse, problem: Problem) -> Result:
    """MEMIT with history on the selected neurons alone: one pass of NSE; the other columns of W stay as they are."""
    neurons, size = select_neurons(problem.keys, options.neuron_share), problem.keys.shape[0]
    if len(neurons) == size:
        factors, found = solve_penalised(problem, _penalty(options, problem, 0.0, problem.history), 1.0, "nse system")
        return factors, found | {"neurons": size}
    history = None if problem.history is None else problem.history.rows(neurons)
    form: Form = (
        "direct" if history is not None and problem.form == "auto" else problem.form
    )  # C is factored anew anyway
    moment = moment_of(problem).restricted(neurons)
    inner = replace(problem, keys=problem.keys[neurons], moment=moment, clean_keys=None, history=None, form=form)
    factors, found = solve_penalised(inner, _penalty(options, inner, 0.0, history), 1.0, "nse system")
    right = torch.zeros(factors.rank, size, dtype=factors.right.dtype, device=factors.right.device)
    right[:, neurons] = factors.right
    return Factors(factors.left, right), found | {"neurons": len(neurons)}


@update.register
def rect(options: Rect, problem: Problem) -> Result:
    """MEMIT's update, sparsified against the current weight."""
    change, found = memit(options, problem)
    change, more = keep_largest_relative(change, problem, options.keep_share)
    return change, found | more


@update.register
def prune(options: Prune, problem: Problem) -> Result:
    """MEMIT's update, the total change since the original weight restrained."""
    change, found = memit(options, problem)
    change, more = restrain_total(change, problem)
    return change, found | more


@update.register
def random_update(options: RandomUpdate, problem: Problem) -> Result:
    """Control: noise with the Frobenius norm of MEMIT's update of the same batch."""
    change, found = memit(options, problem)
    return noise(problem.shape, problem.facts, change.norm(), problem.seed).to(device=change.left.device), found


def noise(shape: tuple[int, int], facts: int, norm: float, seed: int) -> Factors:
    """Gaussian factors ``(d_out, d_in)`` of rank ``facts`` (at most full), seeded, with this Frobenius norm."""
    generator, rank = torch_rng("random update", seed), min(facts, *shape)
    left = torch.randn(shape[0], rank, dtype=torch.float64, generator=generator)
    right = torch.randn(rank, shape[1], dtype=torch.float64, generator=generator)
    found = Factors(left, right)
    return found.scaled(norm / found.norm())


@update.register
def no_update(options: NoUpdate, problem: Problem) -> Result:
    """Control: no update."""
    return _nothing(problem)


def _nothing(problem: Problem) -> Result:
    return Factors.zeros(*problem.shape).to(device=problem.keys.device), describe("none")


def _penalty(options: Moment, problem: Problem, ridge: float = 0.0, history: History | None = None) -> Penalty:
    """``lambda C + (mu + ridge) I + history``."""
    shift = options.moment_ridge + ridge
    return Penalty(moment_of(problem), options.second_moment_weight, shift, history, options.condition_limit)
