"""The memory of a stream: what is kept, what makes room, what is drawn."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_requests

from editlab.data.requests import EditRequest
from editlab.editing.replay import ReplayBuffer, importances, stack_targets

REQUESTS = tiny_requests(60)


def ids(items) -> list[str]:
    return [item.request.case_id for item in items]


def filled(n: int, capacity: int = 100, **options) -> ReplayBuffer:
    """One fact a batch, margins falling with time."""
    buffer = ReplayBuffer(capacity, **options)
    for i, request in enumerate(REQUESTS[:n]):
        buffer.insert([request], torch.full((3, 1), float(i)), [float(-i)], i)
    return buffer


@given(
    st.floats(0, 3),
    st.integers(0, 12),
    st.integers(0, 20),
    st.sampled_from(["random", "priority"]),
    st.sampled_from(["fifo", "lru"]),
    st.integers(1, 15),
)
@settings(deadline=None, max_examples=150)
def test_size_of_a_draw(rate, new, kept, strategy, eviction, capacity):
    buffer = filled(kept, capacity, strategy=strategy, eviction=eviction)
    assert len(buffer) == min(kept, capacity)
    batch = REQUESTS[:new]
    blocked = {r.key for r in batch}
    free = [key for key in buffer.items if key not in blocked]
    drawn = buffer.sample(rate, batch, 99)
    assert len(drawn) == min(math.ceil(rate * new - 1e-9), len(free))
    assert len({item.request.key for item in drawn}) == len(drawn)
    assert not {item.request.key for item in drawn} & blocked
    assert all(item.used_at == 99 for item in drawn)


@pytest.mark.parametrize(("rate", "new", "drawn"), [(0.1, 32, 4), (0.3, 10, 3), (0.1, 30, 3), (0.5, 1, 1), (0, 9, 0)])
def test_the_rate_is_rounded_up(rate, new, drawn):
    """0.1 x 30 is 3 although floats make it a little more."""
    buffer = ReplayBuffer(100)
    buffer.insert(REQUESTS[30:60], None, [0.0] * 30, 0)
    assert len(buffer.sample(rate, REQUESTS[:new], 1)) == drawn


def test_a_draw_depends_on_seed_and_batch_alone():
    one, other = filled(30, seed=1), filled(30, seed=1)
    one.sample(2.0, REQUESTS[40:42], 50)  # an earlier draw changes nothing
    assert ids(one.sample(5.0, REQUESTS[40:41], 60)) == ids(other.sample(5.0, REQUESTS[40:41], 60))
    assert ids(filled(30, seed=1).sample(5.0, REQUESTS[40:41], 61)) != ids(
        filled(30, seed=1).sample(5.0, REQUESTS[40:41], 60)
    )
    assert ids(filled(30, seed=2).sample(5.0, REQUESTS[40:41], 60)) != ids(
        filled(30, seed=1).sample(5.0, REQUESTS[40:41], 60)
    )


def test_every_fact_has_the_same_chance():
    buffer = filled(10)
    counts = dict.fromkeys(ids(buffer.items.values()), 0)
    for batch in range(2000):
        for case in ids(buffer.sample(1.0, REQUESTS[50:52], batch)):
            counts[case] += 1
    assert all(300 < c < 500 for c in counts.values())  # 2 of 10, 2,000 times


def test_of_two_with_the_same_subject_and_relation_the_newest_wins():
    buffer = filled(3)
    newer = dataclasses.replace(REQUESTS[0], case_id="new", target_new="Oslo")
    buffer.insert([newer], torch.full((3, 1), 7.0), [1.0], 5)
    assert len(buffer) == 3
    assert ids(buffer.items.values()) == ["1", "2", "new"]
    assert buffer.items[newer.key].inserted_at == 5
    twice = [dataclasses.replace(newer, case_id=c) for c in ("a", "b")]
    buffer.insert(twice, torch.zeros(3, 2), [0.0, 0.0], 6)
    assert ids(buffer.items.values()) == ["1", "2", "b"]
    other_relation = dataclasses.replace(newer, case_id="c", relation_id="P0")
    buffer.insert([other_relation], torch.zeros(3, 1), [0.0], 7)
    assert len(buffer) == 4


def test_without_a_relation_the_prompt_tells_facts_apart():
    one = EditRequest("1", "{} is in", "Rome", "Spain", "Italy")
    other = dataclasses.replace(one, case_id="2", prompt="{} lies in")
    buffer = ReplayBuffer(5)
    buffer.insert([one, other], None, [0.0, 0.0], 0)
    assert len(buffer) == 2


def test_fifo_drops_the_oldest_and_lru_the_longest_unused():
    for eviction, kept in (("fifo", ["2", "3", "4"]), ("lru", ["0", "3", "4"])):
        buffer = filled(3, capacity=3, eviction=eviction)
        buffer.items[REQUESTS[0].key].used_at = 10  # replayed in batch 10
        buffer.insert(REQUESTS[3:5], None, [0.0, 0.0], 11)
        assert sorted(ids(buffer.items.values())) == kept


def test_a_batch_larger_than_the_memory_keeps_its_last_facts():
    buffer = ReplayBuffer(3)
    buffer.insert(REQUESTS[:10], None, [0.0] * 10, 0)
    assert ids(buffer.items.values()) == ["7", "8", "9"]


def test_priority_takes_low_margins_and_long_unused_first():
    buffer = ReplayBuffer(10, "priority")
    buffer.insert(REQUESTS[:4], None, [5.0, 1.0, 3.0, 2.0], 0)
    assert ids(buffer.sample(1.0, REQUESTS[20:22], 1)) == ["1", "3"]  # low margins
    assert set(ids(buffer.sample(1.0, REQUESTS[20:22], 2))) == {"2", "1"} or set(
        ids(buffer.sample(1.0, REQUESTS[20:22], 2))
    ) <= {"0", "1", "2", "3"}
    older = ReplayBuffer(10, "priority")
    for i in range(4):
        older.insert([REQUESTS[i]], None, [1.0], i)
    assert ids(older.sample(1.0, REQUESTS[20:22], 9)) == ["0", "1"]  # equal margins: the oldest


def test_importance_is_between_0_and_2():
    items = list(filled(5).items.values())
    found = importances(items, 10)
    assert all(0 <= x <= 2 for x in found)
    assert importances(items[:1], 10) == [0.0]
    assert importances([], 10) == []


def test_targets_are_copies_and_stack_in_order():
    buffer = ReplayBuffer(5)
    targets = torch.arange(6.0).view(3, 2)
    buffer.insert(REQUESTS[:2], targets, [0.0, 0.0], 0)
    expected = targets.clone()
    targets.zero_()
    assert torch.equal(stack_targets(list(buffer.items.values())), expected)
    with pytest.raises(ValueError, match="zip"):
        buffer.insert(REQUESTS[:2], expected, [0.0], 0)
