"""Do the experiments of the edit study fit its recipes? What is wrong is a ``ValueError`` of one line, for :class:`EditStudy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from editlab.config.base import choose
from editlab.config.models import HubModel, RandomModel, SubstrateModel
from editlab.config.recipe import Recipe
from editlab.config.solvers import RandomUpdate

if TYPE_CHECKING:
    from editlab.config.edit import Experiment


def check_ranks(name: str, plan: Experiment, methods: Mapping[str, Recipe]) -> None:
    """Ranks belong to LoRA recipes: none may be without, and none is given for raw recipes alone."""
    ranked = [m for m in plan.methods if methods[m].has_rank]
    if ranked and 0 in plan.rank:
        raise ValueError(f"experiments.{name}.rank: 0 is not allowed; {ranked[0]} stores LoRA: give ranks of 1 or more")
    if not ranked and plan.rank != [0]:
        raise ValueError(f"experiments.{name}.rank: {plan.rank} is not allowed; no recipe of it stores LoRA: use [0]")
    for method in ranked:
        if methods[method].backend == "lora" and max(plan.rank) > methods[method].max_rank:
            raise ValueError(
                f"experiments.{name}.rank: {max(plan.rank)} is not allowed; "
                f"at most methods.{method}.max_rank ({methods[method].max_rank})"
            )


def check_layers(
    plan: Experiment, methods: Mapping[str, Recipe], model: SubstrateModel | HubModel | RandomModel
) -> None:
    """Where the number of layers is known before the model is there, edited layers must be among them."""
    if isinstance(model, HubModel):
        return
    blocks = model.blocks if isinstance(model, RandomModel) else model.layers
    for method in plan.methods:
        layers = methods[method].layers
        if blocks is not None and layers != "auto" and max(layers) >= blocks:
            raise ValueError(f"methods.{method}.layers: {layers} is not allowed; the model has layers 0..{blocks - 1}")


def check_own_axes(name: str, plan: Experiment, methods: Mapping[str, Recipe]) -> None:
    """Methods with axes of their own are the study's, each with one entry an axis, and those with replay rates can replay."""
    where, seen = f"experiments.{name}.own_axes", set()
    for own in plan.own_axes:
        for method in own.methods:
            choose(where, method, methods)
            for axis in ("batch", "replay"):
                if getattr(own, axis) is None:
                    continue
                if (method, axis) in seen:
                    raise ValueError(f"{where}: {method} has two entries for {axis}; give one")
                seen.add((method, axis))
            if own.replay and max(own.replay) > 0 and not methods[method].replays:
                raise ValueError(f"{where}: replay {own.replay} is not allowed; {method} replays nothing")


def check_controls(name: str, plan: Experiment, methods: Mapping[str, Recipe]) -> None:
    """Some batch is large enough for its solver (smaller ones are no cells of it), and a control that replays norms has
    streams of the other method beside it."""
    for method in plan.methods:
        recipe, sizes = methods[method], plan.batches(method)
        if max(sizes) < recipe.min_batch:
            allowed = f"{method} needs batches of {recipe.min_batch} facts or more"
            raise ValueError(f"experiments.{name}.batch: {sizes} is not allowed; {allowed}")
        other = recipe.matched_to if isinstance(recipe, RandomUpdate) else None
        if other is None:
            continue
        choose(
            f"methods.{method}.matched_to",
            other,
            {m: None for m in plan.methods if methods[m].edits},
        )
        matched = methods[other]
        if matched.backend != "raw" or matched.trust is not None or not set(sizes) <= set(plan.batches(other)):
            raise ValueError(
                f"methods.{method}.matched_to: {other!r} is not allowed in experiments.{name}; it must be stored raw, "
                f"without trust, and have the batch sizes {sizes}"
            )
        if matched.layers != recipe.layers:
            raise ValueError(
                f"methods.{method}.layers: {recipe.layers} is not allowed; those of {other}: {matched.layers}"
            )


def check_guards(
    name: str, plan: Experiment, experiments: Mapping[str, Experiment], methods: Mapping[str, Recipe]
) -> None:
    """Labels are there where they decide; guards are chosen on streams with harmful batches, of other seeds, where they do."""
    for method in plan.methods:
        trust = methods[method].trust
        if trust is not None and trust.judge == "label" and not plan.label_cases:
            raise ValueError(f"experiments.{name}.label_cases: 0 is not allowed; the labels decide for {method}")
    if plan.guards_from is None:
        return
    where = f"experiments.{name}.guards_from"
    choose(where, plan.guards_from, {k: None for k in experiments if k != name})
    watched = experiments[plan.guards_from]
    shared = sorted(set(watched.seeds) & set(plan.seeds))
    if shared:
        raise ValueError(f"{where}: {plan.guards_from!r} is not allowed; it shares the seeds {shared}")
    guards = [methods[m].trust for m in watched.methods]
    if not (all(t is not None and t.judge == "label" for t in guards) and watched.stress_fraction):
        allowed = "its methods need trust with the judge label, and it stress_fraction"
        raise ValueError(f"{where}: {plan.guards_from!r} is not allowed; {allowed}")
