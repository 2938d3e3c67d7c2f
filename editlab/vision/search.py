"""Search over a recipe's fields: many edits of one classifier in one process, ranked by discovery, test reported later.

Cells whose values are clipped by what there is (more samples than right images, more layers than blocks, more edits than
errors) and then coincide are run once; the others are marked with ``same_as``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.vision import RECIPE, AlphaEdit, Memit, varied
from editlab.edits.edit import Edit
from editlab.errors import ConfigError
from editlab.files.artifacts import write_csv
from editlab.files.timing import Stopwatch
from editlab.networks.vision import Classifier, load_classifier
from editlab.randomness import derive_seed, set_threads
from editlab.vision.discovery import discovery_columns
from editlab.vision.keys import KeyStatistics
from editlab.vision.methods import PathLike, chosen_layers
from editlab.vision.mlp import MlpEditor
from editlab.vision.outcomes import first_changed
from editlab.vision.pixels import read_set
from editlab.vision.samples import draw_samples
from editlab.vision.scoring import Scored, preserved_set, score, transitions

Point = Mapping[str, Any]
Recipe = AlphaEdit | Memit


@dataclass(eq=False)
class Bench:
    """One classifier with everything that its cells share."""

    classifier: Classifier
    errors: pd.DataFrame
    editor: MlpEditor
    known: dict[str, Scored]
    statistics: PathLike | None
    recipe: Recipe
    max_edits: int
    seconds: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        model: PathLike,
        discovery: PathLike,
        errors: PathLike,
        keys: PathLike,
        statistics: PathLike | None,
        recipe: Recipe,
        max_edits: int,
        device: str = "cpu",
    ) -> Bench:
        """Read what the cells of a classifier share; ``recipe`` may be plain values."""
        recipe = RECIPE.validate_python(recipe)
        classifier, images = load_classifier(model, device), read_set(discovery)
        editor = MlpEditor(classifier, images, KeyStatistics.load(keys))
        known = {"discovery": Scored.of(classifier, images)}
        return cls(classifier, pd.read_csv(errors), editor, known, statistics, recipe, max_edits)

    def effective(self, point: Point) -> tuple[Recipe, int, dict[str, Any]]:
        """The recipe and number of edits of a point, clipped to what there is, and the values that were clipped."""
        recipe, edits = varied(self.recipe, point, "search")
        wanted = {"max_edits": edits or self.max_edits, "projection_samples": recipe.projection_samples}
        limits = {
            "max_edits": int((~self.errors["right"]).sum()),
            "projection_samples": self.editor.statistics.samples,
        }
        if isinstance(recipe.layers, list):  # the list says how many
            wanted["num_edit_layers"] = limits["num_edit_layers"] = len(recipe.layers)
        else:
            wanted["num_edit_layers"], limits["num_edit_layers"] = recipe.num_edit_layers, self.classifier.num_layers
        used = {name: min(value, limits[name]) for name, value in wanted.items()}
        clipped = {name: value for name, value in used.items() if value < wanted[name]}
        number = used.pop("max_edits")
        return varied(recipe, used, "search")[0], number, clipped

    def run(self, cell: int, point: Point, directory: Path | None) -> dict[str, Any]:
        """Edit, score on discovery, keep the edit."""
        recipe, edits, clipped = self.effective(point)
        watch = Stopwatch()
        draw = draw_samples(self.errors, 0, edits, self.classifier.classes)
        with watch.stage("edit"):
            layers = chosen_layers(recipe, self.classifier.num_layers, self.statistics)
            edit, solves = self.editor.edit(draw, layers, recipe)
        with watch.stage("score"), edit.applied(self.classifier.model):
            first = first_changed(edit, self.classifier)
            after = {"discovery": self.known["discovery"].after(self.classifier, first)}
        table = score(self.known, after, draw)
        if directory is not None:
            edit.save(directory / f"cell~{cell}.safetensors")
        self.seconds.append({"cell": cell, **{f"{stage}_seconds": s["wall"] for stage, s in watch.seconds().items()}})
        return {
            **discovery_columns(table),
            "key_share": _mean(solves, "key_share"),
            "residual": _mean(solves, "residual"),
        } | {
            "used_edits": len(draw.rows),
            "used_samples": recipe.projection_samples,
            "used_layers": " ".join(map(str, layers)),
            "clipped": " ".join(sorted(clipped)),
        }


def _mean(solves: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [float(row[name]) for row in solves if name in row]
    return sum(values) / len(values) if values else math.nan


def first_alike(bench: Bench, points: Sequence[Point]) -> list[int]:
    """For each point the first that does the same after clipping (itself, if it is the first)."""
    seen: dict[str, int] = {}
    found = []
    for cell, point in enumerate(points):
        recipe, edits, _ = bench.effective(point)
        found.append(seen.setdefault(f"{edits} {recipe.model_dump_json()}", cell))
    return found


def run_points(bench: Bench, points: Sequence[Point], cells: Sequence[int], directory: PathLike) -> None:
    """Run some cells of a list of points, each once: ``cells.csv``, ``seconds.csv`` and an edit a cell, in ``directory``."""
    alike, rows = first_alike(bench, points), []
    for cell in cells:
        row: dict[str, Any] = {"cell": cell, **points[cell], "same_as": alike[cell]}
        if alike[cell] == cell:
            row |= bench.run(cell, points[cell], Path(directory))
        rows.append(row)
    write_csv(Path(directory, "cells.csv"), pd.DataFrame(rows))
    write_csv(
        Path(directory, "seconds.csv"), pd.DataFrame(bench.seconds, columns=["cell", "edit_seconds", "score_seconds"])
    )


def best_point(tables: Sequence[PathLike], points: Sequence[Point]) -> Point:
    """The point with the highest discovery score, mean over classifiers; of equal ones the first.

    A cell that repeats another one of a classifier (``same_as``) has its score there: what is clipped differs between
    classifiers, and a mean over some of them would be compared with means over all.

    Args:
        tables: ``cells.csv`` of ``points``, of one or several classifiers, each in a folder of its classifier.

    Raises:
        ConfigError: no cell was run.
    """
    frames = [pd.read_csv(path).assign(classifier=str(Path(path).parent.parent)) for path in tables]
    cells = pd.concat(frames, ignore_index=True)
    ran = cells.set_index(["classifier", "cell"])["discovery_score"]
    cells["discovery_score"] = ran.loc[list(zip(cells["classifier"], cells["same_as"], strict=True))].to_numpy()
    means = cells.dropna(subset=["discovery_score"]).groupby("cell")["discovery_score"].mean()
    if means.empty:
        raise ConfigError("search: no cell was run")
    return points[int(means.index[int(means.to_numpy().argmax())])]


def refined(best: Point, factors: Mapping[str, Sequence[float]], recipe: Recipe) -> list[dict[str, Any]]:
    """Points around the best of a coarse grid: one field at a time is multiplied; values that are not allowed are left out."""
    points = [dict(best)]
    for name, scales in factors.items():
        start = best.get(name, getattr(recipe, name, None))
        for scale in scales:
            if not isinstance(start, int | float):
                raise ConfigError(f"search.refine.{name}: {start!r} is no number to multiply")
            value = max(1, round(start * scale)) if isinstance(start, int) else start * scale
            point = {**best, name: value}
            try:
                varied(recipe, point, "search.refine")
            except ConfigError:
                continue
            if point not in points:
                points.append(point)
    return points


def run_bayesian(bench: Bench, axes: Mapping[str, Sequence[Any]], trials: int, seed: int, directory: PathLike) -> None:
    """Optuna's tree-structured Parzen estimator over the space that the axes span; discovery is its objective.

    Numbers are drawn between the smallest and the largest value of their axis (floats on a log scale, unless one is 0),
    others from the list.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=derive_seed("vision search", seed))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rows: list[dict[str, Any]] = []

    def objective(trial: Any) -> float:
        point = {name: _suggest(trial, name, values) for name, values in axes.items()}
        found = bench.run(trial.number, point, Path(directory))
        rows.append({"cell": trial.number, **point, "same_as": trial.number, **found})
        return float(found["discovery_score"])

    study.optimize(objective, n_trials=trials)
    write_csv(Path(directory, "cells.csv"), pd.DataFrame(rows))
    write_csv(
        Path(directory, "seconds.csv"), pd.DataFrame(bench.seconds, columns=["cell", "edit_seconds", "score_seconds"])
    )


def _suggest(trial: Any, name: str, values: Sequence[Any]) -> Any:
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return trial.suggest_int(name, min(values), max(values))
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return trial.suggest_float(name, float(min(values)), float(max(values)), log=min(values) > 0)
    texts = {repr(value): value for value in values}
    return texts[trial.suggest_categorical(name, list(texts))]


def score_cells(
    directory: PathLike,
    model: PathLike,
    test: PathLike,
    ft_train: PathLike,
    keys: PathLike,
    heldout: int,
    target: PathLike,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Test and FT-Train levels of the cells that were run: what was not looked at when they were ranked."""
    set_threads(threads)
    classifier = load_classifier(model, device)
    statistics, cells = KeyStatistics.load(keys), pd.read_csv(Path(directory, "cells.csv"))
    images = {"test": read_set(test)}
    images["preserved"] = preserved_set(read_set(ft_train), statistics, statistics.samples, heldout)
    known = {name: Scored.of(classifier, found) for name, found in images.items()}
    rows = []
    for row in cells.to_dict("records"):
        path = Path(directory, f"cell~{row['cell']}.safetensors")
        if path.is_file():
            edit = Edit.load(path)
            with edit.applied(classifier.model):
                after = {name: s.after(classifier, first_changed(edit, classifier)) for name, s in known.items()}
            rows.append({"cell": int(row["cell"]), **_outside(known, after, int(row["used_samples"]), heldout)})
    write_csv(target, pd.DataFrame(rows) if rows else pd.DataFrame(columns=["cell"]))  # all of them may repeat others


def _outside(known: Mapping[str, Scored], after: Mapping[str, Any], samples: int, heldout: int) -> dict[str, Any]:
    """Columns of the search table that need more than discovery; ``samples`` images are behind the statistics."""

    def of(name: str, rows: slice = slice(None)) -> dict[str, Any]:
        return transitions(known[name].before[rows], after[name][rows], known[name].labels[rows])

    test, projection = of("test"), of("preserved", slice(samples))
    return {
        "test_total": test["n"],
        "test_acc_before": test["accuracy_before"],
        "test_acc_after": test["accuracy_after"],
        "test_acc_delta": test["accuracy_delta"],
        "test_correct_to_wrong": test["right_wrong"],
        "test_wrong_to_correct": test["wrong_right"],
        "proj_stability": projection["stability"],
        "proj_regression_rate": projection["regression_rate"],
        "heldout_stability": of("preserved", slice(samples, samples + heldout))["stability"],
    }


def grid_stage(
    points: Sequence[Point], first: int, count: int, directory: PathLike, threads: int = 1, **shared: Any
) -> None:
    """Run ``count`` cells of a grid, from ``first`` on; ``shared`` is for :meth:`Bench.open`."""
    set_threads(threads)
    run_points(Bench.open(**shared), points, range(first, min(first + count, len(points))), directory)


def refined_stage(
    best: PathLike, factors: Mapping[str, Sequence[float]], directory: PathLike, threads: int = 1, **shared: Any
) -> None:
    """Run the cells around the best one of a grid."""
    set_threads(threads)
    bench = Bench.open(**shared)
    points = refined(json.loads(Path(best).read_text(encoding="utf-8")), factors, bench.recipe)
    run_points(bench, points, range(len(points)), directory)


def bayesian_stage(
    axes: Mapping[str, Sequence[Any]], trials: int, seed: int, directory: PathLike, threads: int = 1, **shared: Any
) -> None:
    """Run the trials of a Bayesian search."""
    set_threads(threads)
    run_bayesian(Bench.open(**shared), axes, trials, seed, directory)
