"""Edits of MLP output projections at the CLS position: AlphaEdit and MEMIT with the solvers of :mod:`editlab.algebra`.

For edited blocks l1 < ... < lm the target z is wanted at the output of lm. Block after block, keys and the state at lm are
computed with the edits made so far, and the block takes its share of what is missing, ``R = (z - h) / (blocks left)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.null_space import project_update, projector
from editlab.algebra.problem import Problem
from editlab.algebra.solvers import solve
from editlab.config import solvers
from editlab.config.vision import AlphaEdit, Memit
from editlab.edits.edit import Edit, commit
from editlab.errors import ConfigError
from editlab.networks.hooks import capture, restored
from editlab.networks.vision import CLS, Classifier
from editlab.randomness import torch_rng
from editlab.vision.keys import KeyStatistics
from editlab.vision.pixels import ImageSet
from editlab.vision.samples import Draw
from editlab.vision.targets import find_targets

MlpRecipe = AlphaEdit | Memit
Diagnostics = dict[str, Any]


@dataclass(eq=False)
class MlpEditor:
    """Makes edits of one classifier; keeps targets that several recipes share. The classifier is never left changed.

    Attributes:
        discovery: the set that the edit samples come from.
        statistics: preserved keys.
    """

    classifier: Classifier
    discovery: ImageSet
    statistics: KeyStatistics
    _targets: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def edit(self, draw: Draw, layers: Sequence[int], recipe: MlpRecipe) -> tuple[Edit, list[Diagnostics]]:
        """The edit of a draw, and how each of its solves went (one row a layer, or a layer and sample).

        Raises:
            ModelError: a layer that the classifier does not have.
            NumericalError: a solve or a target failed.
        """
        layers = self.classifier.architecture.check_layers(layers)
        rows: list[Diagnostics] = []
        total: dict[int, list[Factors]] = {layer: [] for layer in layers}
        earlier: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        weights = {layer: self.classifier.architecture.weight(layer) for layer in layers}
        groups = range(len(draw.rows)) if recipe.per_sample else [None]
        with restored(weights):
            for sample in groups:
                chosen = slice(None) if sample is None else slice(sample, sample + 1)
                found = self._solve(draw, chosen, layers, recipe, weights, earlier, bool(total[layers[0]]))
                for layer, (factors, keys, told) in found.items():
                    total[layer].append(factors)
                    earlier[layer].append(keys)
                    rows.append(
                        {"draw": draw.number, "sample": -1 if sample is None else sample, "layer": layer, **told}
                    )
        merged = {layer: Factors.concatenate(parts) for layer, parts in total.items()}
        if recipe.control in ("random", "random_null_space"):
            merged = self._random(merged, draw, recipe)
        info = {"study": "vision", "recipe": recipe.model_dump(mode="json"), "rows": draw.rows.tolist()}
        return Edit(merged, info), rows

    def _solve(
        self,
        draw: Draw,
        chosen: slice,
        layers: Sequence[int],
        recipe: MlpRecipe,
        weights: Mapping[int, Tensor],
        earlier: Mapping[int, Sequence[Tensor]],
        edited: bool,
    ) -> dict[int, tuple[Factors, Tensor, Diagnostics]]:
        """Targets on the current weights, then one solve a layer, each committed before the next."""
        pixels = self.discovery.tensor(self.classifier, draw.rows[chosen])
        with torch.no_grad():
            below = self.classifier.through(self.classifier.embed(pixels), 0, layers[0])
        goal = self._goal(draw, chosen, below, layers, recipe, keep=not edited and chosen == slice(None))
        found = {}
        for done, layer in enumerate(layers):
            keys, state = self._observe(below, layers, layer)
            residual = (goal - state).T.double() / (len(layers) - done)
            past = torch.cat(list(earlier[layer]), dim=1) if earlier[layer] else None
            factors, told = self._update(layer, keys.double(), residual, past, recipe)
            commit(weights, {layer: factors})
            found[layer] = (factors, keys.double(), told)
        return found

    def _goal(
        self, draw: Draw, chosen: slice, below: Tensor, layers: Sequence[int], recipe: MlpRecipe, keep: bool
    ) -> Tensor:
        """z (n, d) at the output of the last edited block; on the unedited classifier it is found once for all recipes.

        Like keys and states it is handed on in main memory, where the solves are made.
        """
        key = (
            layers[-1], tuple(draw.rows.tolist()), tuple(draw.targets.tolist()),
            recipe.lr, recipe.steps, recipe.clamp, recipe.stop_loss, recipe.target_decay,
        )  # fmt: skip
        if keep and key in self._targets:
            return self._targets[key]
        with torch.no_grad():
            hidden = self.classifier.through(below, layers[0], layers[-1] + 1)
        targets = torch.tensor(draw.targets[chosen]).to(hidden.device)
        goal = find_targets(self.classifier, hidden, layers[-1], targets, recipe).cpu()
        if keep:
            self._targets[key] = goal
        return goal

    def _observe(self, below: Tensor, layers: Sequence[int], layer: int) -> tuple[Tensor, Tensor]:
        """Keys (d_in, n) of a layer at CLS and the CLS state (n, d) at the last edited block, as they are now."""
        module = self.classifier.architecture.projection(layer)
        with torch.no_grad(), capture(inputs={"keys": module}) as found:
            hidden = self.classifier.through(below, layers[0], layers[-1] + 1)
        return found["keys"][:, CLS].T.cpu(), hidden[:, CLS].cpu()

    def _update(
        self, layer: int, keys: Tensor, residual: Tensor, earlier: Tensor | None, recipe: MlpRecipe
    ) -> tuple[Factors, Diagnostics]:
        """One solve by the functions that the language study uses too."""
        where = (layer, recipe.projection_samples, recipe.key_positions)
        if isinstance(recipe, AlphaEdit):
            known = self.statistics.spectrum(*where)
            onto = projector(known, recipe.nullspace_threshold)
            return project_update(keys, residual, onto, recipe.ridge * known.mean_square, earlier)
        if earlier is not None:  # MEMIT preserves earlier edits as further keys that must not move
            still = residual.new_zeros(len(residual), earlier.shape[1])
            keys, residual = torch.cat([keys, earlier], dim=1), torch.cat([residual, still], dim=1)
        options = solvers.Memit(second_moment_weight=recipe.second_moment_weight)
        solution = solve(Problem(keys, residual, self.statistics.moment(*where)), options)
        return solution.factors, dict(solution.diagnostics)

    def _random(self, merged: Mapping[int, Factors], draw: Draw, recipe: MlpRecipe) -> dict[int, Factors]:
        """Gaussian factors of the same rank and norm, for the second control inside the null space of each layer."""
        found = {}
        for layer, factors in merged.items():
            generator = torch_rng("vision random update", draw.number, layer)
            left = torch.randn(factors.left.shape, dtype=torch.float64, generator=generator)
            right = torch.randn(factors.right.shape, dtype=torch.float64, generator=generator)
            if recipe.control == "random_null_space":
                if not isinstance(recipe, AlphaEdit):
                    raise ConfigError("control: random_null_space needs a recipe with a null space (alphaedit)")
                known = self.statistics.spectrum(layer, recipe.projection_samples, recipe.key_positions)
                right = projector(known, recipe.nullspace_threshold)(right.T).T
            noise = Factors(left, right)
            found[layer] = noise.scaled(factors.norm() / noise.norm())
        return found
