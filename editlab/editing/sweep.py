"""A grid over hyper-parameters on facts that no experiment edits: how a study's recipes are chosen.

Every point edits its facts, in one batch or as a stream of smaller ones, and is scored at the end by S, the harmonic mean
of ES, PS and NS. The data set itself keeps the facts for it (``reserved_for: sweep``), so that no experiment of any run
draws a fact that some recipe was chosen on. For long streams choose on a stream: a recipe that does best on one batch may
break the model after a thousand edits.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.data import batches
from editlab.data.corpus import held_out_sentences, reserved_facts, sample_known
from editlab.data.edited import EditedFacts
from editlab.data.requests import SWEEP, EditRequest
from editlab.editing.batch_targets import held_relations
from editlab.editing.keys import Contexts
from editlab.editing.session import EditSession
from editlab.evaluation.prompts import Surroundings
from editlab.evaluation.scoring import score_requests
from editlab.evaluation.summary import summarize

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def grid_points(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The product of the axes as keyword arguments."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def held_out_facts(
    requests: Sequence[EditRequest], known: set[str] | None, facts: int, seeds: Sequence[int]
) -> dict[int, list[EditRequest]]:
    """Known facts by seed, of those that the data set keeps for the choice of recipes.

    Raises:
        DataError: it keeps too few.
    """
    return {seed: sample_known(requests, known, facts, seed, SWEEP) for seed in seeds}


def run_sweep(
    model: torch.nn.Module,
    drawn: Mapping[int, Sequence[EditRequest]],
    recipes: Mapping[str, Mapping[str, Any]],
    axes: Mapping[str, Mapping[str, Sequence[Any]]],
    *,
    statistics: Sequence[str],
    contexts: Contexts,
    curvature: Sequence[str] = (),
    records: Sequence[EditRequest] = (),
    batch: int | None = None,
) -> pd.DataFrame:
    """Edit all draws with every point of each method's grid; one by one where the solver takes no more.

    Args:
        drawn: facts by seed.
        recipes: by method, the fields that stay fixed.
        axes: by method, the fields that vary.
        statistics, curvature: files of the layers that the grid edits.
        records: the data set: what it keeps for this and is not drawn, gates and lengths are calibrated on.
        batch: facts a batch, one after the other; None: all facts of a draw at once.

    Returns:
        one row a (method, point, seed): the varied fields, ES, PS, NS, S (success) and the norm of the update.
    """
    import pandas as pd
    from tqdm import tqdm

    grid = [(m, point) for m in axes for point in grid_points(axes[m])]
    tried = [(m, point, validated(Recipe, {**recipes[m], **point}, f"sweep.{m}")) for m, point in grid]
    plan = [(*known, seed) for known in tried for seed in drawn]
    tuning = {seed: reserved_facts(records, facts) for seed, facts in drawn.items()}
    rows = []
    for method, point, recipe, seed in tqdm(plan, unit="point", desc="sweep", disable=None):
        session = EditSession(
            model,
            recipe,
            statistics=list(curvature if recipe.reads_curvature else statistics),
            contexts=contexts,
            seed=seed,
            anchor_texts=held_out_sentences(recipe.neutral_texts),
            tuning=tuning[seed],
            relations=held_relations(recipe, records),
        )
        with session:
            most = batch or len(drawn[seed])
            for chunk in batches(drawn[seed], min(most, recipe.max_batch or most)):
                session.step(chunk)
            session.finish()
            frame = score_requests(model, drawn[seed], around=Surroundings(EditedFacts(drawn[seed])))
        table = summarize(frame, resamples=0)
        success = table[table["protocol"] == "success"].set_index("metric")["value"]
        rows.append(
            {
                "method": method,
                "seed": seed,
                **{k: str(v) for k, v in point.items()},
                **{name: success[name] for name in ("ES", "PS", "NS", "S")},
                "decision": next((e.decision for e in session.events if not e.kept), session.events[-1].decision),
                "delta_norm": session.edit().norm(),
            }
        )
        logger.info("sweep: point %d of %d, %s %s: S %.3f", len(rows), len(plan), method, point, success["S"])
    return pd.DataFrame(rows)


def best_points(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, best S first inside each method."""
    scores = ["ES", "PS", "NS", "S", "delta_norm"]
    varied = [c for c in table.columns if c not in [*scores, "seed", "method", "decision"]]
    means = table.groupby(["method", *varied], dropna=False)[scores].mean().reset_index()
    return means.sort_values(["method", "S"], ascending=[True, False], kind="stable")
