"""Before against after, level by level: what was fixed, what was broken, and whether the difference is more than chance.

| level | images |
|---|---|
| edit | those that were edited |
| projection | FT-Train images behind the statistics: preserved by construction |
| heldout | FT-Train images, right before, that the statistics have not seen |
| discovery_rest | discovery errors that were not edited |
| discovery_right | discovery images that were right and not edited |
| ambiguous | test images whose two best classes were close |
| test | all test images |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from editlab.data.images import Array
from editlab.networks.vision import Classifier
from editlab.vision.keys import KeyStatistics
from editlab.vision.pixels import ImageSet, Prefix
from editlab.vision.samples import Draw

SAMPLES = 500
"""Preserved images of a recipe that asks for no statistics."""
LEVELS = ("edit", "projection", "heldout", "discovery_rest", "discovery_right", "ambiguous", "test")


@dataclass(frozen=True, eq=False)
class Scored:
    """A set with what the unedited classifier says about it."""

    prefix: Prefix
    before: Tensor
    gap: Tensor

    @classmethod
    def of(cls, classifier: Classifier, images: ImageSet) -> Scored:
        """Run the unedited classifier."""
        prefix = Prefix(classifier, images)
        logits = prefix.logits()
        best = logits.double().softmax(-1).topk(2, dim=-1).values
        return cls(prefix, logits.argmax(-1), best[:, 0] - best[:, 1])

    @property
    def labels(self) -> Tensor:
        return self.prefix.images.labels

    def after(self, classifier: Classifier, first: int) -> Tensor:
        """Predictions (n,) of a classifier whose blocks from ``first`` on may differ."""
        if classifier is not self.prefix.classifier:
            return Prefix(classifier, self.prefix.images).logits().argmax(-1)
        return self.prefix.logits(first).argmax(-1)


def preserved_set(ft_train: ImageSet, statistics: KeyStatistics, samples: int, heldout: int) -> ImageSet:
    """Right FT-Train images in the order in which statistics take them: those of ``samples``, and ``heldout`` more."""
    return ft_train.rows(statistics.rows.numpy()[: statistics.used(samples) + heldout])


def samples_of(recipe: Any) -> int:
    """How many FT-Train images the statistics of a recipe ask for; :data:`SAMPLES` where it has none."""
    fields = ("projection_samples", "fisher_samples", "moment_samples")
    return next((int(getattr(recipe, f)) for f in fields if hasattr(recipe, f)), SAMPLES)


def score(
    sets: Mapping[str, Scored],
    after: Mapping[str, Tensor],
    draw: Draw | None,
    ambiguous_gap: float = 0.0,
    samples: int = 0,
) -> pd.DataFrame:
    """One row a level.

    Args:
        sets: by name: discovery, and any of preserved (:func:`preserved_set`) and test.
        after: predictions of the edited classifier, by the same names.
        draw: what was edited (None: the churn control, which edits nothing).
        samples: how many of the preserved images are behind the statistics; the others are held out.
    """
    rows = []
    for level, (name, chosen) in _levels(sets, draw, ambiguous_gap, samples).items():
        known = sets[name]
        table = transitions(known.before[chosen], after[name][chosen], known.labels[chosen])
        if known.prefix.images.ordinal:
            classes = len(known.prefix.images.classes)
            table |= kappas(known.before[chosen], after[name][chosen], known.labels[chosen], classes)
        rows.append({"level": level, **table})
    return pd.DataFrame(rows)


def _levels(
    sets: Mapping[str, Scored], draw: Draw | None, ambiguous_gap: float, samples: int
) -> dict[str, tuple[str, Tensor]]:
    discovery = sets["discovery"]
    edited = torch.zeros(len(discovery.before), dtype=torch.bool)
    if draw is not None:
        edited[torch.as_tensor(draw.rows)] = True
    right = discovery.before == discovery.labels
    found = {
        "edit": ("discovery", edited),
        "discovery_rest": ("discovery", ~edited & ~right),
        "discovery_right": ("discovery", ~edited & right),
    }
    if "preserved" in sets:
        behind = torch.arange(len(sets["preserved"].before)) < samples
        found |= {"projection": ("preserved", behind), "heldout": ("preserved", ~behind)}
    if "test" in sets:
        found["ambiguous"] = ("test", sets["test"].gap < ambiguous_gap)
        found["test"] = ("test", torch.ones(len(sets["test"].before), dtype=torch.bool))
    return {level: found[level] for level in LEVELS if level in found}


def transitions(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Any]:
    """Counts of right and wrong before and after, the shares that follow, and McNemar's exact p-value.

    ``fix_rate`` is the share of the wrong that became right, ``stability`` that of the right that stayed right,
    ``regression_rate`` its complement; ``unchanged`` the share of equal predictions. NaN where there is nothing to share.
    """
    was, now = before == labels, after == labels
    n = len(labels)
    counts = {
        "right_right": int((was & now).sum()),
        "right_wrong": int((was & ~now).sum()),
        "wrong_right": int((~was & now).sum()),
        "wrong_wrong": int((~was & ~now).sum()),
    }
    gained, lost = counts["wrong_right"], counts["right_wrong"]
    return {
        "n": n,
        "accuracy_before": _share(int(was.sum()), n),
        "accuracy_after": _share(int(now.sum()), n),
        "accuracy_delta": _share(gained - lost, n),
        "fix_rate": _share(gained, int((~was).sum())),
        "stability": _share(counts["right_right"], int(was.sum())),
        "regression_rate": _share(lost, int(was.sum())),
        "unchanged": _share(int((before == after).sum()), n),
        **counts,
        "net_gain": gained - lost,
        "mcnemar_p": mcnemar(lost, gained),
    }


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value that as many change to right as to wrong (McNemar 1947); 1 where none changes."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def kappas(before: Tensor, after: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """Cohen's kappa with quadratic weights, for ordered classes; NaN where it is not defined.

    Distances are those of all ``classes``: a class that no image of the level has still lies between its neighbours.
    """
    from sklearn.metrics import cohen_kappa_score

    def kappa(predicted: Tensor) -> float:
        if len(labels) == 0 or len({*labels.tolist(), *predicted.tolist()}) < 2:
            return math.nan
        return float(cohen_kappa_score(labels.numpy(), predicted.numpy(), labels=range(classes), weights="quadratic"))

    return {"kappa_before": kappa(before), "kappa_after": kappa(after)}


def per_class(before: Tensor, after: Tensor, labels: Tensor, classes: int) -> pd.DataFrame:
    """One row a class: n, accuracy before and after."""
    rows = []
    for k in range(classes):
        mine = labels == k
        n = int(mine.sum())
        right = [_share(int((p[mine] == k).sum()), n) for p in (before, after)]
        rows.append({"class": k, "n": n, "accuracy_before": right[0], "accuracy_after": right[1]})
    return pd.DataFrame(rows)


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Array:
    """(classes, classes): images of class i that were taken for class j."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).numpy()


def _share(count: int, n: int) -> float:
    return count / n if n else float(np.nan)
