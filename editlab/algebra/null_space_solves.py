"""The solves inside of a null space: AlphaEdit's, with BetaEdit's two terms, and EvoEdit's."""

from __future__ import annotations

from dataclasses import replace

from editlab.algebra.null_space import NullSpacePenalty, Projector
from editlab.algebra.problem import Problem, Result, moment_of
from editlab.algebra.regularized import Penalty, Ridge, System, solve_penalised, symmetric, thin
from editlab.algebra.second_moment import SecondMoment
from editlab.config.solvers import AlphaEdit, EvoEdit, NullSpace
from editlab.errors import ConfigError, NumericalError

THIN_CONDITION = 1e9
"""Condition number up to which the inverse with earlier keys is updated and not factored anew: float64 leaves 1e-7 of it."""


def in_null_space(options: AlphaEdit, problem: Problem) -> Result:
    """``R K^T P (K K^T P + H P + L2 I)^-1`` (AlphaEdit), solved inside the null space:

    ``R J^T (J J^T + P H P + L2 I)^-1`` with ``J = P K``: symmetric, and n x n, with neither P nor H formed. BetaEdit has
    ``H + lambda C`` in the place of H, and a P of its own now and then (:attr:`Problem.space`).
    """
    moment = moment_of(problem)
    space = moment if problem.space is None else problem.space
    share, limit, weight = options.null_space_share, options.condition_limit, options.moment_weight
    onto, earlier = _null_space(options, space), problem.history
    plain = earlier is None and not weight
    l2, p = (1.0, options.l2) if plain else (options.l2, 1.0)
    name = (space, options.null_space_threshold, share)
    penalty = NullSpacePenalty(onto, name, l2, earlier, limit, moment, weight)
    fits = problem.form == "woodbury" or problem.facts < onto.dimension
    if problem.form != "direct" and fits and penalty.condition <= THIN_CONDITION:
        inner = replace(problem, keys=onto(problem.keys), form="woodbury")
        factors, found = solve_penalised(inner, penalty, p, "alphaedit system")
    else:
        factors, found = _in_coordinates(options, problem, onto)
    found["null_space_dimension"] = onto.dimension
    return factors, found


def _null_space(options: NullSpace, space: SecondMoment) -> Projector:
    onto = Projector.of_moment(space, options.null_space_threshold, options.null_space_share)
    if onto.dimension == 0:
        least = float(space.eigh()[0].min())
        allowed = f"allowed is more than the least eigenvalue of C, {least:.3g}; or set null_space_share"
        raise ConfigError(f"null_space_threshold: {options.null_space_threshold:g} leaves no direction; {allowed}")
    return onto


def _in_coordinates(options: AlphaEdit, problem: Problem, onto: Projector) -> Result:
    """The same in the coordinates of the null space, where a q x q matrix is formed and may get a ridge."""
    basis, limit, weight = onto.free, options.condition_limit, options.moment_weight
    assert basis is not None
    inner = replace(problem, keys=basis.T @ problem.keys, form="auto" if problem.form == "auto" else "direct")
    penalty: System = Ridge(inner.keys, 1.0, None, limit)
    p = options.l2
    if problem.history is not None or weight:
        held = [] if problem.history is None else [problem.history.dense()]
        held += [weight * moment_of(problem).matrix] if weight else []
        earlier = basis.T @ (held[0] if len(held) == 1 else held[0] + held[1]) @ basis
        moment = SecondMoment(symmetric(earlier), 1)
        penalty, p = Penalty(moment, 1.0, options.l2, None, limit), 1.0
        inner = replace(inner, form="direct")
    factors, found = solve_penalised(inner, penalty, p, "alphaedit system")
    return thin(factors.left, factors.right @ basis.T), found


LEFT = 1e-3
"""Share of the keys of a batch that must lie outside of all that is protected; with less there is nothing to edit with."""


def in_shrinking_null_space(options: EvoEdit, problem: Problem) -> Result:
    """``R (J^T J + L2 I)^-1 J^T`` with ``J = P' K``: P' is AlphaEdit's projector without the span of the earlier keys (EvoEdit).

    What an earlier key gains is ``dW k = R (...) J^T k = 0``: earlier edits stay as they are, and each batch takes as many
    dimensions of the null space as it has new directions, until none is left (``null_space_left`` is what this one found).
    """
    onto, earlier = _null_space(options, moment_of(problem)), problem.history
    keys, used = onto(problem.keys), 0
    if earlier is not None:
        name = ("null space", moment_of(problem), options.null_space_threshold, options.null_space_share)
        taken = earlier.span(name, onto)
        used = taken.shape[1]
        for _ in range(2):  # the second time for the rounding of the first
            keys = keys - taken @ (taken.T @ keys)
    share = float(keys.norm() / problem.keys.norm()) if bool(problem.keys.any()) else 1.0
    if used and share < LEFT:
        raise NumericalError(
            f"evoedit: {share:.0e} of the keys lie outside of what earlier edits and preserved keys use; the null space of "
            f"{onto.dimension} dimensions is used up ({used} by earlier edits)"
        )
    inner = replace(problem, keys=keys, history=None)
    factors, found = solve_penalised(
        inner, Ridge(keys, 1.0, None, options.condition_limit), options.l2, "evoedit system"
    )
    return factors, found | {"null_space_dimension": onto.dimension, "null_space_left": onto.dimension - used}
