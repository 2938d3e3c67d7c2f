"""A gated memory by itself: the equation, adding, replacing, taking out and back."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.errors import ArtifactError, ConfigError, NumericalError
from editlab.networks import memory as room
from editlab.networks.memory import SIEVE_FROM, Memory, StoredFact

D_OUT, D_IN = 5, 12


def facts(*names: str, target: str = "x") -> list[StoredFact]:
    return [StoredFact(f"c{name}", f"s{name}", "r", f"{target}{name}") for name in names]


def memory(*names: str, seed: int = 0, gate: float = 0.6, target: str = "x") -> Memory:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randn(d, len(names), dtype=torch.float64, generator=generator) for d in (D_IN, D_OUT)]
    return Memory.of(columns[0], columns[1], gate, facts(*names, target=target))


def inputs(n: int, near: Memory, seed: int = 5) -> torch.Tensor:
    """Half of them near a key, half anywhere."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, D_IN, generator=generator)
    noise[: n // 2] = 0.5 * noise[: n // 2] / D_IN**0.5 + near.keys[torch.arange(n // 2) % near.size]
    return 3.0 * noise


def same(one: Memory, other: Memory) -> bool:
    parts = all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("keys", "residuals", "gates"))
    return parts and one.facts == other.facts


def alone(stored, cases):
    return stored.without([f.case_id for f in stored.facts if f.case_id not in cases])


def test_it_is_the_equation():
    stored = memory("a", "b", "c", "d", gate=0.7)
    x = inputs(40, stored).double()
    expected, fired = torch.zeros(40, D_OUT, dtype=torch.float64), 0
    for row, k in enumerate(x):
        cosines = [float(k @ key.double() / (k.norm() * key.double().norm())) for key in stored.keys]
        j = max(range(4), key=lambda i: cosines[i])
        if cosines[j] > 0.7:
            expected[row], fired = stored.residuals[j].double(), fired + 1
    assert 5 < fired < 35
    assert torch.allclose(stored.apply(x.T), expected.T, atol=1e-7)
    assert torch.equal(stored.read(x).fires, expected.norm(dim=1) > 0)


@given(st.permutations(range(20)), st.integers(1, 19))
@settings(deadline=None, max_examples=30)
def test_a_token_fires_by_its_own_key_alone(order, cut):
    stored = memory("a", "b", "c")
    x = inputs(20, stored)
    whole = stored.read(x)
    assert torch.equal(stored.read(x[order]).fires, whole.fires[order])
    parts = [stored.read(x[:cut]), stored.read(x[cut:].view(1, -1, D_IN))]
    assert torch.equal(torch.cat([p.fires.flatten() for p in parts]), whole.fires)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True), st.integers(0, 8))
@settings(deadline=None, max_examples=40)
def test_the_order_of_adding_does_not_matter(names, cut):
    everything = memory("a", "b", "c", "d", "e", "f", "g", "h")
    one = alone(everything, ["c" + n for n in names[:cut]]) + alone(everything, ["c" + n for n in names[cut:]])
    other = alone(everything, ["c" + n for n in sorted(names, reverse=True)])
    x = inputs(30, everything)
    assert {f.case_id for f in one.facts} == {f.case_id for f in other.facts} == {"c" + n for n in names}
    assert torch.equal(one.apply(x.T), other.apply(x.T))


def test_what_is_added_and_taken_out_leaves_no_trace():
    stored, more = memory("a", "b"), memory("c", "d", seed=1)
    both = stored + more
    assert [f.case_id for f in both.facts] == ["ca", "cb", "cc", "cd"]
    assert same(both.without(["cc", "cd"]), stored)
    assert same(alone(both, ["cc", "cd"]), more)
    assert same(both + more.inverse(), stored)
    assert same(stored + Memory.empty(D_OUT, D_IN), stored)
    assert (stored + stored.inverse()).size == 0
    assert same(stored.inverse().inverse(), stored)
    with pytest.raises(ConfigError, match=r"^memory: case 'ce' is not stored"):
        both.without(["ce"])


def test_facts_of_other_edits_with_the_same_case_id_are_kept_apart():
    """Records that come one by one, each in a call of its own, are all case 0."""
    other = dataclasses.replace(memory("b", seed=1), facts=(StoredFact("ca", "sb", "r", "xb"),))
    both = memory("a") + other
    with pytest.raises(
        ConfigError, match=r"case 'ca' is 2 facts; name one by its subject and relation, e.g. \('sa', 'r'\)"
    ):
        both.without(["ca"])
    assert same(both.without([("sa", "r")]), other)
    assert same(both.without([("sb", "r")]), memory("a"))


def test_a_fact_that_is_there_is_replaced():
    old, new = memory("a", "b"), memory("a", seed=7, target="y")
    now = old + new
    assert [f.target for f in now.facts] == ["xb", "ya"]
    assert same(alone(now, ["ca"]), new)
    assert same(old + old, old)
    assert same(now + alone(old, ["ca"]).inverse(), now)  # what it would take back is not there any more
    columns = torch.randn(D_IN, 2, dtype=torch.float64), torch.randn(D_OUT, 2, dtype=torch.float64)
    twice = Memory.of(*columns, 0.5, facts("a", "a"))
    assert twice.size == 1
    assert torch.equal(twice.residuals[0], columns[1][:, 1].float())


def test_what_takes_back_says_nothing_by_itself():
    stored = memory("a", "b")
    x = inputs(20, stored)
    assert not stored.inverse().apply(x.T).any()
    assert stored.inverse().norm() == 0.0
    assert stored.apply(x.T).any()


def test_entries_keep_their_own_gates():
    strict, loose = memory("a", gate=0.99), memory("b", seed=3, gate=0.2)
    both = strict + loose
    off = strict.keys[0] + 0.3 * torch.nn.functional.normalize(torch.ones(D_IN), dim=0)
    near = torch.stack([off, strict.keys[0], loose.keys[0]])
    assert both.read(near).fires.tolist() == [False, True, True]


def test_collisions_are_pairs_of_other_answers():
    key = torch.randn(D_IN, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    names = [StoredFact(c, c, "r", t) for c, t in (("1", "Rome"), ("2", "Rome"), ("3", "Oslo"), ("4", "Oslo"))]
    keys = torch.cat([key, key, key + 0.01, -key], 1)
    stored = Memory.of(keys, torch.ones(D_OUT, 4), 0.9, names)
    assert stored.collisions() == [("1", "3"), ("2", "3"), ("3", "1")]
    assert alone(stored, ["1"]).collisions(stored) == [("1", "3")]
    assert alone(stored, ["4"]).collisions(stored) == []


def test_tensors_and_names_give_it_back():
    stored = memory("a", "b") + memory("c", seed=1).inverse()
    names = json.loads(json.dumps(stored.names()))
    assert same(Memory.restored(stored.tensors(), names), stored)
    with pytest.raises(ArtifactError, match="do not fit"):
        Memory.restored(stored.tensors(), names[:2])
    with pytest.raises(ArtifactError, match="damaged"):
        Memory.restored({}, names)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_keys_that_have_no_direction_are_refused(value):
    keys = torch.ones(D_IN, 2, dtype=torch.float64)
    keys[:, 1] = value
    with pytest.raises(NumericalError, match="memory"):
        Memory.of(keys, torch.ones(D_OUT, 2), 0.5, facts("a", "b"))
    with pytest.raises(ConfigError, match="shapes"):
        _ = memory("a") + Memory.empty(D_OUT, D_IN + 1)


def many(size, seed=0, width=96, gate=0.8, apart=0.05):
    """A memory large enough for a sieve, whose keys come in tight pairs near a few directions, and some of them twice."""
    rng = torch.Generator().manual_seed(seed)
    centres = (torch.randn(size // 2, 12, generator=rng) @ torch.randn(12, width, generator=rng) / 12**0.5).repeat(2, 1)
    keys = centres + apart * torch.randn(len(centres), width, generator=rng)
    keys[-3:] = keys[:3]
    facts = [StoredFact(str(i), str(i), "", str(i)) for i in range(len(keys))]
    return Memory.of(keys.T, torch.randn(4, len(keys), generator=rng), gate, facts)


def asked_of(held, seed, spread, rows=40):
    """Unit rows around keys, and in float64 their cosines with all of them."""
    rng = torch.Generator().manual_seed(seed)
    near = held.keys[torch.randint(len(held.keys), (rows,), generator=rng)]
    unit = F.normalize(near + spread * torch.randn(near.shape, generator=rng), dim=1)
    return unit, F.normalize(unit.double(), dim=1) @ F.normalize(held.keys.double(), dim=1).T


@given(
    seed=st.integers(0, 2**16), spread=st.sampled_from([0.0, 0.01, 0.05, 1.0]), gate=st.sampled_from([0.5, 0.9, 0.99])
)
@settings(max_examples=40, deadline=None)
def test_a_sieve_lets_every_entry_through_that_can_answer(seed, spread, gate):
    held = many(SIEVE_FROM, seed % 5, gate=gate)
    unit, cosines = asked_of(held, seed, spread)
    sieve = held._sieve
    assert bool((room._split(unit, sieve.directions) @ sieve.keys > cosines).all())
    found = sieve.contenders(unit, held.keys, room._Tally())
    assert (found is not None) or gate < 0.9  # here it must sift; tested below that it need not
    if found is not None:
        nearest = cosines >= cosines.amax(1, keepdim=True) - 1e-7
        passing = set(zip(*(x.tolist() for x in torch.where(nearest & (cosines > gate + 1e-6))), strict=True))
        assert passing <= set(zip(*(x.tolist() for x in found), strict=True))


@given(seed=st.integers(0, 2**16), spread=st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 0.05, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_nearest_key_answers_and_of_one_that_is_there_twice_the_first(seed, spread):
    """Against float64, sifted and not: who answers must not turn on how the products were computed."""
    for sifted in (False, True):
        held = many(SIEVE_FROM, seed % 5, gate=0.9, apart=[0.05, 1e-3, 1e-4][seed % 3])
        unit, cosines = asked_of(held, seed, spread)
        held._tally.rows = 10**6 if sifted else -(10**6)
        found = held.read(unit)
        assert (held._tally.sifted > 0) == sifted
        best, first = cosines.max(1)
        answered = best > 0.9 + 1e-6
        chosen = cosines.gather(1, found.index[:, None])[:, 0]
        assert bool((best - chosen < 1e-12)[answered].all())
        twins = answered & ((cosines == best[:, None]).sum(1) > 1)
        assert torch.equal(found.index[twins], first[twins])


def test_a_bound_holds_where_the_rest_is_nothing():
    """Keys that lie in the directions: what rounding makes of a length of zero must not fall short."""
    rng = torch.Generator().manual_seed(1)
    inside = torch.randn(SIEVE_FROM, 5, generator=rng) @ torch.randn(5, 96, generator=rng)
    keys = F.normalize(inside.double(), dim=1).float()
    sieve = room._Sieve.of(keys, 0.9)
    assert float((keys - keys @ sieve.directions @ sieve.directions.T).norm(dim=1).max()) < 1e-5
    cosines = keys.double() @ keys.double().T
    assert bool((room._split(keys, sieve.directions) @ sieve.keys > cosines).all())
    tight = dataclasses.replace(sieve, gate=float(cosines[0].max()) - 1e-6)
    found = tight.contenders(keys[:1], keys, room._Tally())
    assert found is not None
    assert int(cosines[0].argmax()) in found[1].tolist()


def test_where_every_entry_may_be_the_nearest_all_are_compared_and_the_sieve_is_given_up():
    held = many(SIEVE_FROM)
    same = held.keys[:1].expand(SIEVE_FROM, -1).contiguous()
    alike = dataclasses.replace(held, keys=same)
    assert alike._sieve.contenders(same[:40], same, room._Tally()) is None
    hundred = torch.cat([same[:100], held.keys[100:]])
    some = dataclasses.replace(held, keys=hundred)
    assert some._sieve.contenders(same[:40], hundred, room._Tally()) is None
    tally = room._Tally()
    assert some._sieve.contenders(hundred[99:], hundred, tally) is not None  # one dense prompt among others
    assert SIEVE_FROM <= tally.left < SIEVE_FROM + 200
    alike._tally.rows = 10**6
    assert alike.read(same[:1]).index.tolist() == [0]
    assert alike._pays  # one dense prompt is no reason
    assert alike.read(same[:300]).fires.all()
    assert alike._tally.sifted == 301
    assert not alike._pays
    alike.read(same[:1])
    assert alike._tally.sifted == 301


@pytest.mark.parametrize("sifted", [False, True])
def test_of_keys_that_round_apart_the_first_one_answers(sifted):
    held = many(SIEVE_FROM, gate=0.99)
    again = F.normalize(held.keys[:1] * (1 + 1e-7) + 1e-8, dim=1)
    twins = dataclasses.replace(held, keys=torch.cat([held.keys[:-1], again * (1 + 3e-7)]))
    twins._tally.rows = 10**6 if sifted else -(10**6)
    for row in (held.keys[:1], again):
        assert twins.read(row).index.tolist() == [0]
    assert (twins._tally.sifted > 0) == sifted


@pytest.mark.parametrize("sifted", [False, True])
def test_of_keys_that_are_near_but_not_one_each_answers_for_itself(sifted):
    held = many(SIEVE_FROM, gate=0.99)
    near = F.normalize(held.keys[:1] + 5e-5 * torch.randn(1, 96, generator=torch.Generator().manual_seed(1)), dim=1)
    assert float(held.keys[:1] @ near.T) > 1 - 1e-6
    both = dataclasses.replace(held, keys=torch.cat([held.keys[:-1], near]))
    both._tally.rows = 10**6 if sifted else -(10**6)
    assert both.read(torch.cat([held.keys[:1], near])).index.tolist() == [0, both.size - 1]


@pytest.mark.parametrize("sifted", [False, True])
def test_a_memory_reads_in_float32_whatever_the_program_computes_in(sifted):
    held, other = many(SIEVE_FROM, gate=0.97), many(SIEVE_FROM, gate=0.97)
    unit, _ = asked_of(held, 3, 0.01)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for memory in (held, other):
            memory._tally.rows = 10**6 if sifted else -(10**6)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = other.read(unit)
        plain = held.read(unit)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(mixed.index, plain.index)
    assert torch.equal(mixed.fires, plain.fires)
    assert torch.equal(other.read(unit).index, plain.index)


def test_a_row_that_is_not_a_number_gets_no_answer():
    held = many(SIEVE_FROM)
    broken = held.keys[:600].clone()
    broken[3] = float("nan")
    for _ in range(2):
        fires = held.read(broken).fires
        assert not fires[3]
        assert fires.sum() == 599


def test_a_memory_reads_the_same_with_and_without_a_sieve():
    plain, sifted = many(2 * SIEVE_FROM), many(2 * SIEVE_FROM)
    asked = torch.cat([plain.keys[:30], torch.randn(30, 96, generator=torch.Generator().manual_seed(3))])
    plain._tally.rows = -(10**6)
    assert not sifted._pays
    sifted.read(asked)
    assert sifted._pays
    assert sifted._tally.sifted == 0
    one, other = plain.read(asked), sifted.read(asked)
    assert (plain._tally.sifted, sifted._tally.sifted) == (0, 60)
    assert torch.equal(one.fires, other.fires)
    assert torch.equal(one.index[one.fires], other.index[one.fires])
    assert one.fires[:30].all()
    assert not one.fires[30:].all()
