"""Levels, transitions and their tests against the definitions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import classifier, image_set

from editlab.vision.discovery import discovery_score, heldout_score
from editlab.vision.keys import collect_keys
from editlab.vision.pixels import Prefix
from editlab.vision.samples import draw_samples, find_errors, right_rows
from editlab.vision.scoring import (
    LEVELS,
    Scored,
    confusion,
    kappas,
    mcnemar,
    per_class,
    preserved_set,
    score,
    transitions,
)

triples = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60)


@settings(deadline=None)
@given(triples)
def test_transitions_are_the_counts_by_hand(rows):
    before, after, labels = torch.tensor(rows).T
    found = transitions(before, after, labels)
    assert found["right_wrong"] == sum(b == y != a for b, a, y in rows)
    assert found["wrong_right"] == sum(b != y == a for b, a, y in rows)
    assert found["n"] == sum(found[k] for k in ("right_right", "right_wrong", "wrong_right", "wrong_wrong"))
    assert found["accuracy_delta"] == pytest.approx(found["accuracy_after"] - found["accuracy_before"])
    assert 0 < found["mcnemar_p"] <= 1
    matrix = confusion(after, labels, 4)
    assert matrix.sum() == len(rows)
    assert np.trace(matrix) == sum(a == y for _, a, y in rows)
    assert per_class(before, after, labels, 4)["n"].sum() == len(rows)


def test_mcnemar_is_the_sign_test():
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * (1 + 10) / 1024)


def test_quadratic_kappa_by_hand():
    labels, right = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 4])
    near, far = torch.tensor([1, 1, 2, 3, 4]), torch.tensor([4, 1, 2, 3, 4])
    assert kappas(right, near, labels, 5)["kappa_before"] == pytest.approx(1.0)
    assert kappas(near, far, labels, 5)["kappa_before"] > kappas(near, far, labels, 5)["kappa_after"]
    observed = np.zeros((5, 5))
    for y, p in zip(labels, near, strict=True):
        observed[y, p] += 1
    weight = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    expected = np.outer(observed.sum(1), observed.sum(0)) / 5
    by_hand = 1 - (weight * observed).sum() / (weight * expected).sum()
    assert kappas(near, far, labels, 5)["kappa_before"] == pytest.approx(by_hand)
    assert math.isnan(kappas(labels[:1], labels[:1], labels[:1], 5)["kappa_before"])


def test_a_class_that_is_missing_in_a_level_keeps_its_place():
    """With grades 0, 1 and 4 alone, taking 4 for 1 is three grades off, not one."""
    labels, predicted = torch.tensor([0, 1, 4, 4, 0]), torch.tensor([0, 0, 1, 4, 1])
    observed = np.zeros((5, 5))
    for y, p in zip(labels, predicted, strict=True):
        observed[y, p] += 1
    weight = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    expected = np.outer(observed.sum(1), observed.sum(0)) / 5
    by_hand = 1 - (weight * observed).sum() / (weight * expected).sum()
    assert kappas(predicted, labels, labels, 5)["kappa_before"] == pytest.approx(by_hand)


def test_levels_part_the_sets():
    model, discovery, ft_train, test = classifier(), image_set("discovery"), image_set("ft_train"), image_set("test")
    keys = collect_keys(model, ft_train, right_rows(model, ft_train, 1), [2], 100, 1)
    images = {"discovery": discovery, "test": test, "preserved": preserved_set(ft_train, keys, 60, 50)}
    sets = {name: Scored.of(model, found) for name, found in images.items()}
    draw = draw_samples(find_errors(model, discovery), 0, 7, 10)
    table = score(sets, {name: s.before for name, s in sets.items()}, draw, 0.05, 60).set_index("level")
    assert list(table.index) == list(LEVELS)
    assert table.loc["edit", "n"] == 7
    assert table.loc[["edit", "discovery_rest", "discovery_right"], "n"].sum() == len(discovery)
    assert table.loc["projection", "n"] == 60
    assert table.loc["heldout", "n"] == 50
    assert table.loc["test", "n"] == len(test)
    assert table.loc["ambiguous", "n"] == (find_errors(model, test)["gap"] < 0.05).sum()
    assert (table["net_gain"] == 0).all()
    assert (table["mcnemar_p"] == 1).all()
    assert table.loc["heldout", "accuracy_before"] == 1.0
    assert discovery_score(table.reset_index()) == 0
    nothing = score(sets, {name: s.labels for name, s in sets.items()}, draw, 0.05, 60)
    assert discovery_score(nothing) == 1.0
    assert heldout_score(nothing) == table.loc["discovery_rest", "n"]


def test_states_below_an_edit_are_computed_once_and_are_the_same():
    model, images = classifier(), image_set("test")
    prefix = Prefix(model, images)
    with torch.no_grad():
        whole = model(images.tensor(model))
    for first in (0, 1, 3):
        assert torch.allclose(prefix.logits(first), whole, atol=1e-5)
    assert pd.Series(find_errors(model, images)["right"]).mean() == pytest.approx(
        float((whole.argmax(-1) == images.labels).float().mean())
    )
