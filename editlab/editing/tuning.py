"""How guards are chosen: on streams of other seeds than those that they are judged on, and written into a file.

On these streams the labels decide (``judge: label``): what does harm is taken back, so that what comes later is judged on a
model in order, and the terms of every batch are recorded. All guards are functions of the terms, so that one stream serves
them all. Trust's weights are the recipe's or, where that tells harmful batches better apart on the whole (mean area under
the ROC over the streams), the same without one of the terms. A threshold is the one of highest balanced accuracy; of equal
ones the lowest, which takes back least. Random rolls back as often as trust does here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from editlab.config.recipe import Recipe, Trust
from editlab.editing.events import Event
from editlab.editing.trust import GAIN, NORM, behaviour_trust, distance_trust, squash
from editlab.errors import DataError

Labelled = list[tuple[dict[str, float], bool]]
"""(terms, harmful) of the batches of a stream."""


def labelled(events: Iterable[Event]) -> Labelled:
    """The batches of a stream that were judged and labelled; harmful: applying it lowered the composite."""
    return [
        ({k: float(v) for k, v in e.terms.items()}, e.applied["composite"] < e.without["composite"])
        for e in events
        if e.terms is not None and e.applied is not None and e.without is not None
    ]


def choose_guards(streams: Sequence[Labelled], options: Trust) -> dict[str, Any]:
    """Weights of trust, and by kind of guard its threshold with the area under the ROC and the balanced accuracy here.

    Raises:
        DataError: there are no harmful batches, or no harmless ones, or their terms lack what trust looks at.
    """
    batches = [batch for stream in streams for batch in stream]
    harmful = np.array([label for _, label in batches], dtype=bool)
    if not harmful.any() or harmful.all():
        raise DataError(f"guards: {int(harmful.sum())} of {len(harmful)} batches are harmful; both kinds are needed")
    if any(GAIN not in terms or NORM not in terms for terms, _ in batches):
        raise DataError("guards: the streams were not watched by trust on probes")
    chosen = max(_variants(options), key=lambda o: _mean_area(streams, o))  # of equal ones the first: the recipe's own
    scores = {
        "trust": [behaviour_trust(terms, chosen) for terms, _ in batches],
        "distance": [distance_trust(terms, options) for terms, _ in batches],
        "norm": [1.0 - squash(terms[NORM], options.tau.update_norm) for terms, _ in batches],
    }
    found: dict[str, Any] = {kind: _guard(np.array(values), harmful) for kind, values in scores.items()}
    share = float(np.mean(np.array(scores["trust"]) < found["trust"]["threshold"]))
    found["random"] = {"threshold": share, "area": 0.5, "balanced_accuracy": 0.5}
    return {
        "weights": chosen.weights.model_dump(),
        "guards": found,
        "batches": len(harmful),
        "harmful": int(harmful.sum()),
    }


def _variants(options: Trust) -> list[Trust]:
    """The options, and each of them that leaves out one term."""
    weights = options.weights.model_dump()
    used = [name for name, weight in weights.items() if weight > 0]
    less = [{**weights, name: 0.0} for name in used] if len(used) > 1 else []
    return [Trust.model_validate({**options.model_dump(), "weights": w}) for w in (weights, *less)]


def _mean_area(streams: Sequence[Labelled], options: Trust) -> float:
    areas = [_area(*_arrays(stream, options)) for stream in streams]
    return float(np.mean([area for area in areas if area == area] or [0.0]))


def _arrays(stream: Labelled, options: Trust) -> tuple[np.ndarray, np.ndarray]:
    return np.array([behaviour_trust(t, options) for t, _ in stream]), np.array([h for _, h in stream], dtype=bool)


def _area(scores: np.ndarray, harmful: np.ndarray) -> float:
    """P(a harmful batch scores lower than a harmless one), ties half; NaN where there is one kind alone."""
    low, high = scores[harmful], scores[~harmful]
    if not len(low) or not len(high):
        return float("nan")
    return float((low[:, None] < high).mean() + (low[:, None] == high).mean() / 2)


def _guard(scores: np.ndarray, harmful: np.ndarray) -> dict[str, float]:
    """The threshold of highest balanced accuracy: between two scores, or below or above all of them."""
    levels = np.unique(scores)
    cuts = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    accuracy = [((scores[harmful] < cut).mean() + (scores[~harmful] >= cut).mean()) / 2 for cut in cuts]
    best = int(np.argmax(np.round(accuracy, 12)))
    return {
        "threshold": float(cuts[best]),
        "area": _area(scores, harmful),
        "balanced_accuracy": float(accuracy[best]),
    }


def with_guard(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    """A guarded recipe with the weights and the threshold of the file; it rolls back below the threshold, and never scales."""
    assert recipe.trust is not None
    threshold = chosen["guards"][recipe.trust.kind]["threshold"]
    values = {**recipe.trust.model_dump(), "threshold": threshold, "low": threshold, "soft": False}
    if recipe.trust.behaves:
        values["weights"] = dict(chosen["weights"])
    return recipe.model_copy(update={"trust": Trust.model_validate(values)})
