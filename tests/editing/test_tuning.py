"""Guards that are chosen on other streams, their rivals, and harmful batches that no ruler finds."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_requests

from editlab.config.base import validated
from editlab.config.recipe import Recipe, Trust
from editlab.editing.events import Event
from editlab.editing.session import EditSession
from editlab.editing.stress import KINDS, Stress, stressed_batches
from editlab.editing.trust import squash
from editlab.editing.tuning import choose_guards, labelled, with_guard
from editlab.errors import ConfigError, DataError

COMMON = {"solver": "emmet", "layers": [0], "clamp": 2.0, "steps": 5, "second_moment_weight": 1.0}
FACTS = tiny_requests(240)
STREAM, OTHERS = FACTS[:24], FACTS[24:140]
ORDINARY = ("shuffled", "wrong_subject", "neighbor", "wording")


def recipe(**trust) -> Recipe:
    return validated(Recipe, {**COMMON, "trust": trust} if trust else COMMON, "recipe")


def edited(given: Recipe, stress: Stress | None = None, probes=FACTS[200:212], count: int = 8) -> tuple:
    model = tiny_model()
    moments = {0: torch.eye(64, dtype=torch.float64)}
    session = EditSession(model, given, statistics=moments, probes=probes, seed=3)
    with session:
        for start in range(0, len(STREAM), count):
            session.step(STREAM[start : start + count], stress if start == count else None)
        return session.events, session.weights[0].clone()


# ---- harmful batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDINARY)
def test_harmful_batches_of_ordinary_norm_change_what_is_written_and_not_how_much(kind):
    events, weight = edited(recipe(), Stress(kind, 5, tuple(OTHERS)))
    plain, other = edited(recipe())
    assert events[0].layers["0"].update_norm == plain[0].layers["0"].update_norm
    assert not torch.equal(weight, other)
    assert 0.5 < events[1].layers["0"].update_norm / plain[1].layers["0"].update_norm < 2.0
    again, same = edited(recipe(), Stress(kind, 5, tuple(OTHERS)))
    assert torch.equal(weight, same)
    assert events == again


def test_what_the_kinds_ask_for():
    batch = STREAM[:8]
    stress = {kind: Stress(kind, 1, tuple(OTHERS)) for kind in KINDS}
    for kind in ("shuffled", "clamp", "corruption"):
        assert stress[kind].requests(batch) == batch
    for kind in ("contradiction", "neighbor", "wording"):
        assert stress[kind].requests(batch)[:4] == batch[:4]
    neighbors = stress["neighbor"].requests(batch)[4:]
    assert [(n.relation_id, n.target_true, n.target_new) for n in neighbors] == [
        (r.relation_id, r.target_true, r.target_new) for r in batch[:4]
    ]
    assert all(n.subject != r.subject for n, r in zip(neighbors, batch, strict=False))
    for one, two in zip(batch[:4], stress["wording"].requests(batch)[4:], strict=True):
        assert two.rewrite_prompt in one.paraphrase_prompts
        assert two.target_new != one.target_new
    misplaced = stress["wrong_subject"].requests(batch)
    assert len({m.subject for m in misplaced} - {r.subject for r in batch}) == len(batch)
    assert [(m.prompt, m.target_new) for m in misplaced] == [(r.prompt, r.target_new) for r in batch]
    alone = [dataclasses.replace(r, relation_id="P0") for r in batch]
    misplaced = stress["wrong_subject"].requests(alone)  # no other fact of the relation: those of the batch
    assert all(m.subject != r.subject for m, r in zip(misplaced, alone, strict=True))


def test_streams_of_other_seeds_start_with_other_kinds():
    first = {next(iter(stressed_batches(16, 0.4, seed).values())).kind for seed in range(7)}
    assert first == set(KINDS)


# ---- rivals ----------------------------------------------------------------------------------------------------------


def test_the_norm_guard_looks_at_the_norm_alone():
    events, _ = edited(recipe(judge="norm", threshold=0.0, low=0.0), probes=())
    for event in events:
        assert event.terms["update_norm"] == pytest.approx(event.layers["0"].update_norm)
        assert event.trust == 1.0 - squash(event.terms["update_norm"], 20.0)
        assert "edit_success_gain" not in event.terms
    cut = np.mean(sorted(e.trust for e in events)[:2])
    events, _ = edited(recipe(judge="norm", threshold=cut, low=cut), probes=())
    assert any(e.rollback for e in events)


def test_the_random_guard_rolls_back_at_the_rate_of_its_threshold():
    given = recipe(judge="random", threshold=0.3, low=0.3, soft=False)
    events = edited(given, probes=(), count=1)[0]
    assert events == edited(given, probes=(), count=1)[0]
    assert [e.rollback for e in events] == [e.trust < 0.3 for e in events]
    assert 1 <= sum(e.rollback for e in events) <= 14
    assert len({e.trust for e in events}) == len(events)


@pytest.mark.parametrize(
    ("trust", "message"),
    [
        ({"judge": "norm", "distance_only": True}, "distance_only: true is not allowed; the judge is norm"),
        ({"judge": "norm", "per_fact": True}, "per_fact: true is not allowed"),
        ({"distance_only": True, "per_fact": True}, "per_fact: true is not allowed"),
    ],
)
def test_guards_that_cannot_be(trust, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**trust)


def test_the_label_decides_where_it_is_asked_to():
    given, seen = recipe(judge="label"), iter([0.5, 0.4, 0.5, 0.5, 0.5, 0.9])  # without, with: harm, none, none
    model = tiny_model()
    session = EditSession(
        model,
        given,
        statistics={0: torch.eye(64, dtype=torch.float64)},
        probes=FACTS[200:212],
        observer=lambda requests, earlier: {"composite": next(seen)},
    )
    with session:
        for start in (0, 8, 16):
            session.step(STREAM[start : start + 8])
    assert [e.decision for e in session.events] == ["rolled_back", "accepted", "accepted"]
    assert all("edit_success_gain" in e.terms for e in session.events)
    assert [harmful for _, harmful in labelled(session.events)] == [True, False, False]


# ---- the choice ------------------------------------------------------------------------------------------------------


def batch(harmful: bool, **terms: float) -> tuple[dict[str, float], bool]:
    plain = {"edit_success_gain": 3.0, "heldout_ppl_delta": 0.0, "neighbor_flip_rate": 0.0, "confidence_shift": 0.0}
    distances = {"preservation_distance": 0.1, "new_edit_distance": 0.1, "old_edit_distance": 1.0, "update_norm": 5.0}
    return {**plain, **distances, **terms}, harmful


def test_the_threshold_tells_harmful_batches_apart_and_of_equal_ones_takes_back_least():
    stream = [batch(False, neighbor_flip_rate=x) for x in (0.0, 0.01, 0.02)]
    stream += [batch(True, neighbor_flip_rate=x) for x in (0.5, 0.6)]
    found = choose_guards([stream], Trust())["guards"]
    assert found["trust"]["area"] == 1.0
    assert found["trust"]["balanced_accuracy"] == 1.0
    assert found["norm"] == {"threshold": 0.0, "area": 0.5, "balanced_accuracy": 0.5}  # all of one norm: never acts
    assert found["random"]["threshold"] == 0.4  # as often as trust
    tuned = with_guard(recipe(judge="random"), {"guards": found, "weights": {}})
    assert (tuned.trust.threshold, tuned.trust.low, tuned.trust.soft) == (0.4, 0.4, False)


def test_a_term_that_misleads_loses_its_weight():
    """A large gain here is a mark of harm: without it the rest tells the batches apart."""
    stream = [batch(False, edit_success_gain=0.1, neighbor_flip_rate=0.0) for _ in range(4)]
    stream += [batch(True, edit_success_gain=9.0, neighbor_flip_rate=0.1) for _ in range(4)]
    chosen = choose_guards([stream, stream], Trust())
    assert chosen["weights"]["edit_success_gain"] == 0.0
    assert chosen["guards"]["trust"]["area"] == 1.0
    tuned = with_guard(recipe(threshold=0.5), json.loads(json.dumps(chosen)))
    assert tuned.trust.weights.edit_success_gain == 0.0
    assert tuned.trust.threshold == tuned.trust.low == chosen["guards"]["trust"]["threshold"]
    kept = choose_guards([[batch(h, neighbor_flip_rate=0.5 * h) for h in (False, True)]], Trust())
    assert kept["weights"] == Trust().weights.model_dump()  # of equal ones the recipe's own


def test_streams_that_nothing_can_be_chosen_on():
    with pytest.raises(DataError, match="0 of 2 batches are harmful"):
        choose_guards([[batch(False), batch(False)]], Trust())
    with pytest.raises(DataError, match="not watched by trust on probes"):
        choose_guards([[({"update_norm": 1.0}, True), batch(False)]], Trust())


def test_labels_of_a_stream_come_from_its_events():
    scores = {"without": {"composite": 0.5}, "with": {"composite": 0.4}, "terms": {"update_norm": 1.0, "x": "nan"}}
    events = [Event(batch=0, **scores), Event(batch=1), Event(batch=2, **{**scores, "with": {"composite": 0.5}})]
    found = labelled(events)
    assert [harmful for _, harmful in found] == [True, False]
    assert math.isnan(found[0][0]["x"])
