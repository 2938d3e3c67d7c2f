"""What a session can be started with: its arguments against the recipe, its statistics against the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from editlab.algebra.curvature import Curvature
from editlab.algebra.second_moment import SecondMoment
from editlab.config.recipe import Recipe
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture

logger = logging.getLogger(__name__)

ENOUGH_TOKENS = 10
"""Tokens a dimension below which a null space is not to be trusted: a tenth of the published text costs AlphaEdit 7 to 12
points of specificity (arXiv 2410.02355, Table 6)."""


def check_arguments(recipe: Recipe, architecture: Architecture, replay: float, rank: int) -> list[int]:
    """The edited layers, after every argument was held against the recipe.

    Raises:
        ConfigError: layers, replay or rank do not fit it.
        ModelError: the model has no such layer.
    """
    if recipe.layers == "auto":
        raise ConfigError("layers: 'auto' must be resolved by the layer-choice rule; give a list here")
    layers = architecture.check_layers(recipe.layers)
    if recipe.site == "mlp" and len(layers) > 1:
        raise ConfigError(f"layers: {recipe.solver} edits exactly one layer, got {layers}")
    if isinstance(replay, bool) or not 0 <= replay < float("inf"):
        raise ConfigError(f"replay: {replay} is not allowed; a finite number >= 0: replayed facts per new fact")
    if recipe.backend == "memory" and len(layers) > 1:
        raise ConfigError(f"layers: backend memory keeps one layer, got {layers}")
    if replay and not recipe.replays:
        who = recipe.solver if recipe.solves else f"backend {recipe.backend}"
        raise ConfigError(f"replay: {who} cannot take replayed facts; use 0")
    if rank < 0 or (rank == 0) == recipe.has_rank:
        allowed = "1 or more" if recipe.has_rank else "leave it out, or use backend lora"
        raise ConfigError(f"rank: {rank} is not allowed with backend {recipe.backend}; {allowed}")
    return layers


def required_moments(
    statistics: Any, recipe: Recipe, layers: Sequence[int], architecture: Architecture
) -> dict[int, SecondMoment]:
    """The second moments of the edited layers on the devices of their maps, as far as the solver uses them.

    Args:
        statistics: see :func:`editlab.editing.session.edit`.

    Raises:
        ConfigError: one is missing or of another size than the map's input.
    """
    from editlab.moments.stored import resolve_statistics

    if not recipe.solves or not recipe.reads_moment:
        return {}
    if statistics is None and not recipe.moment:  # ROME and UltraEdit use C where it is given
        logger.info("statistics: none given; %s goes without the second moment", recipe.solver)
        return {}
    moments = resolve_statistics(statistics, list(layers))
    for layer in layers:
        if layer not in moments:
            raise ConfigError(f"statistics: {recipe.solver} needs the second moment of layer {layer}")
        d_in = architecture.weight_shape(layer)[1]
        if moments[layer].size != d_in:
            raise ConfigError(f"statistics: layer {layer} has size {moments[layer].size}; the model needs {d_in}")
        if recipe.null_space and 0 < moments[layer].count < ENOUGH_TOKENS * d_in:
            logger.warning(
                "statistics: layer %d: the null space is that of %d tokens; fewer than %d x %d cost specificity",
                layer,
                moments[layer].count,
                ENOUGH_TOKENS,
                d_in,
            )
    spectrum = recipe.null_space or recipe.penalty()[1] > 0  # or a shifted second moment
    return {k: m.to(architecture.weight(k).device, spectrum=spectrum) for k, m in moments.items()}


def required_curvature(
    statistics: Any, recipe: Recipe, layers: Sequence[int], architecture: Architecture
) -> dict[int, Curvature]:
    """The curvature at the edited maps, on their devices, where the recipe reads it.

    Raises:
        ConfigError: it is missing, or that of another map.
    """
    from editlab.moments.stored_curvature import resolve_curvature

    if not recipe.reads_curvature:
        return {}
    if statistics is None:
        raise ConfigError(
            f"statistics: {recipe.solver} needs the curvature of layers {list(layers)}: collect it with "
            "editlab.collect_curvature, or set energy: 0"
        )
    found = resolve_curvature(statistics, layers, {layer: architecture.weight_shape(layer) for layer in layers})
    return {k: curvature.to(architecture.weight(k).device) for k, curvature in found.items()}
