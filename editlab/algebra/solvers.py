"""Closed-form edits: pure functions from keys, residuals and the second moment to the low-rank factors of an update.

Given keys ``K`` (d_in, n), residuals ``R`` (d_out, n) and the second moment ``C``, almost every method solves one
problem: make ``dW K`` close to ``R`` while the outputs on ordinary inputs move little. With ``A = lambda C + H + mu I``
(H: keys of earlier edits) and a penalty p the optimum of ``|dW K - R|^2 + p tr(dW A dW^T)`` is

    dW = R K^T (p A + K K^T)^-1  =  R (p I + K^T A^-1 K)^-1 K^T A^-1,

a d x d system on the left, an n x n one on the right (Woodbury; O(d^2 n) with the Cholesky factor of C at hand).
MEMIT is p = 1; EMMET, the equality-constrained optimum, is p = gamma, in the limit 0; ROME is its single column;
AlphaEdit is the same in coordinates of the null space of C, with A = L2 I + H. A solver is one function
here and one line of :data:`editlab.config.solvers.SOLVERS`; :func:`solve` finds it by name, checks the input, measures the
result and refuses non-finite numbers.

Sources: ROME arXiv 2202.05262, R-ROME 2403.07175, MEMIT 2210.07229, EMMET 2403.14236, AlphaEdit 2410.02355,
NSE 2410.04045, ENCORE 2502.01636, RECT 2401.04700, PRUNE 2405.16821.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from editlab.algebra import postprocess
from editlab.algebra.linalg import Factors, SecondMoment
from editlab.algebra.problem import Diagnostics, Problem, Result, Solution, SolverOptions
from editlab.algebra.regularized import Penalty, describe, identity_moment, solve_penalised, thin
from editlab.config.solvers import Traits, traits_of
from editlab.errors import ConfigError, NumericalError
from editlab.randomness import torch_rng

__all__ = ["Problem", "Solution", "SolverOptions", "select_neurons", "solve"]


def solve(name: str, problem: Problem, options: SolverOptions | None = None, *, postprocessed: bool = True) -> Solution:
    """The update of one batch by the solver called ``name``.

    Raises:
        ConfigError: unknown solver, more facts than it takes, or an input that it needs is missing.
        NumericalError: non-finite input or output, or a system ill-conditioned with every ridge.
        ValueError: shapes that do not fit.
    """
    options = options or SolverOptions()
    traits = traits_of(name)
    if traits.gradient:
        raise ConfigError(f"solver: {name!r} has no closed form; it fine-tunes (editlab.editing.finetune)")
    facts = problem.checked()
    _require_inputs(name, traits, facts)
    change = globals()[traits.function or name] if facts.facts else none
    update, found = change(facts.weighted(), options)
    if traits.restraint is not None and postprocessed and facts.facts:
        update, more = getattr(postprocess, traits.restraint)(update, facts, options)
        found |= more
    if not (update.left.isfinite().all() and update.right.isfinite().all()):
        raise NumericalError(f"{name}: the update holds NaN or Inf")
    return Solution(update, found | _measured(update, facts))


def _require_inputs(name: str, traits: Traits, problem: Problem) -> None:
    if traits.max_batch is not None and problem.facts > traits.max_batch:
        allowed = f"allowed is batch {traits.max_batch}, one edit after another"
        raise ConfigError(f"solver {name}: batch of {problem.facts} facts; {allowed}")
    for field, needed in (
        ("moment", traits.moment),
        ("weight", traits.weight),
        ("original", traits.original),
    ):
        if needed and getattr(problem, field) is None:
            raise ConfigError(f"solver {name}: {field} is missing; the method cannot do without it")


def _measured(update: Factors, problem: Problem) -> Diagnostics:
    """Residual, norm and rank of a finished update, on the facts as given (not scaled by their weights)."""
    target = float(problem.residual.norm())
    gap = float((update.apply(problem.keys) - problem.residual).norm())
    return {
        "facts": problem.facts,
        "rank": update.rank,
        "residual": gap / target if target > 0 else gap,
        "update_norm": update.norm(),
    }


def _moment(problem: Problem) -> SecondMoment:
    assert problem.moment is not None
    return problem.moment


def rome(problem: Problem, options: SolverOptions) -> Result:
    """``r u^T / (u^T k)`` with ``u = C^-1 k`` normalised (ROME, eq. 2); k below the line is the clean key if given."""
    key, clean = problem.keys, problem.keys if problem.clean_keys is None else problem.clean_keys
    direction, ridge = key, 0.0
    if problem.moment is not None:
        shift = options.moment_ridge + (options.ridge or 0.0)
        penalty = Penalty(problem.moment, options.second_moment_weight, shift, None, options.condition_limit)
        direction, ridge = penalty.solve(key)
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


def r_rome(problem: Problem, options: SolverOptions) -> Result:
    """ROME with one and the same key throughout (R-ROME: the mixed denominator is what made ROME collapse)."""
    return rome(replace(problem, clean_keys=None), options)


def memit(problem: Problem, options: SolverOptions) -> Result:
    """``R K^T (lambda C + K K^T)^-1`` (MEMIT, eq. 14)."""
    shift = options.moment_ridge + (options.ridge or 0.0)
    penalty = Penalty(_moment(problem), options.second_moment_weight, shift, None, options.condition_limit)
    return solve_penalised(problem, penalty, 1.0, options, "memit system")


def emmet(problem: Problem, options: SolverOptions) -> Result:
    """``R (K^T A^-1 K + gamma I)^-1 K^T A^-1`` with ``A = lambda C + mu I`` (EMMET)."""
    gamma = options.ridge if options.ridge is not None else (0.1 if problem.facts > 1 else 0.0)
    weight, mu = options.second_moment_weight, options.moment_ridge
    penalty = Penalty(_moment(problem), weight, mu, None, options.condition_limit)
    return solve_penalised(problem, penalty, gamma, options, "emmet system")


def encore(problem: Problem, options: SolverOptions) -> Result:
    """``R K^T (lambda C + H + K K^T + update_norm_weight I)^-1`` (ENCORE)."""
    shift = options.moment_ridge + (options.ridge or 0.0) + options.update_norm_weight
    weight = options.second_moment_weight
    penalty = Penalty(_moment(problem), weight, shift, problem.history, options.condition_limit)
    return solve_penalised(problem, penalty, 1.0, options, "encore system")


def alphaedit(problem: Problem, options: SolverOptions) -> Result:
    """``R K^T P (K K^T P + H P + L2 I)^-1``, P = Q Q^T (AlphaEdit), solved inside the null space:

    ``R J^T (J J^T + Q^T H Q + L2 I)^-1 Q^T`` with ``J = Q^T K`` (q, n): symmetric, and q x q instead of d x d.
    """
    basis = _moment(problem).null_space(options.null_space_threshold, options.null_space_share)
    if basis.shape[1] == 0:
        least = float(_moment(problem).eigh()[0].min())
        allowed = f"allowed is more than the least eigenvalue of C, {least:.3g}; or set null_space_share"
        raise ConfigError(f"null_space_threshold: {options.null_space_threshold:g} leaves no direction; {allowed}")
    inner = replace(problem, keys=basis.T @ problem.keys)
    l2, limit = options.l2 + (options.ridge or 0.0), options.condition_limit
    penalty, p = Penalty(identity_moment(basis), 1.0, 0.0, None, limit), l2
    if problem.history is not None:
        history = basis.T @ problem.history @ basis
        penalty, p = Penalty(identity_moment(basis), l2, 0.0, history, limit), 1.0
    factors, found = solve_penalised(inner, penalty, p, options, "alphaedit system")
    found["null_space_dimension"] = basis.shape[1]
    return thin(factors.left, factors.right @ basis.T), found


def select_neurons(keys: Tensor, share: float) -> Tensor:
    """(s,) ascending indices of the inputs with the largest summed |key| over the facts (columns of keys (d_in, n)).

    As published, the longest prefix of the sorted scores whose sum stays within ``share`` of the total; at least one.
    """
    scores, order = torch.sort(keys.abs().sum(dim=1), descending=True, stable=True)
    count = int((scores.cumsum(0) <= share * scores.sum()).sum())
    return order[: max(1, count)].sort().values


def nse(problem: Problem, options: SolverOptions) -> Result:
    """MEMIT with history on the selected neurons alone: one pass of NSE; the other columns of W stay as they are."""
    neurons = select_neurons(problem.keys, options.neuron_share)
    history = None if problem.history is None else problem.history[neurons][:, neurons]
    moment = _moment(problem).restricted(neurons)
    inner = replace(problem, keys=problem.keys[neurons], moment=moment, history=history, clean_keys=None)
    factors, found = encore(inner, replace(options, update_norm_weight=0.0))
    right = torch.zeros(factors.rank, problem.keys.shape[0], dtype=factors.right.dtype, device=factors.right.device)
    right[:, neurons] = factors.right
    found["neurons"] = len(neurons)
    return Factors(factors.left, right), found


def random(problem: Problem, options: SolverOptions) -> Result:
    """Control: Gaussian factors of rank n, seeded, with the Frobenius norm of MEMIT's update of the same batch."""
    update, found = memit(problem, options)
    d_out, d_in = problem.shape
    generator, rank = torch_rng("random update", problem.seed), min(problem.facts, d_out, d_in)
    left = torch.randn(d_out, rank, dtype=torch.float64, generator=generator).to(update.left)
    right = torch.randn(rank, d_in, dtype=torch.float64, generator=generator).to(update.right)
    noise = Factors(left, right)
    return noise.scaled(update.norm() / noise.norm()), found


def none(problem: Problem, options: SolverOptions) -> Result:
    """Control: no update."""
    return Factors.zeros(*problem.shape).to(device=problem.keys.device), describe("none")
