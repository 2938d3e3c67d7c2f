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
from editlab.networks.memory import ROUGH_FROM, Memory, StoredFact

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
    one = everything.only(["c" + n for n in names[:cut]]) + everything.only(["c" + n for n in names[cut:]])
    other = everything.only(["c" + n for n in sorted(names, reverse=True)])
    x = inputs(30, everything)
    assert {f.case_id for f in one.facts} == {f.case_id for f in other.facts} == {"c" + n for n in names}
    assert torch.equal(one.apply(x.T), other.apply(x.T))


def test_what_is_added_and_taken_out_leaves_no_trace():
    stored, more = memory("a", "b"), memory("c", "d", seed=1)
    both = stored + more
    assert [f.case_id for f in both.facts] == ["ca", "cb", "cc", "cd"]
    assert same(both.without(["cc", "cd"]), stored)
    assert same(both.only(["cc", "cd"]), more)
    assert same(both + more.inverse(), stored)
    assert same(stored + Memory.empty(D_OUT, D_IN), stored)
    assert (stored + stored.inverse()).size == 0
    assert same(stored.inverse().inverse(), stored)
    with pytest.raises(ConfigError, match=r"^memory: case 'ce' is not stored"):
        both.without(["ce"])


def test_a_fact_that_is_there_is_replaced():
    old, new = memory("a", "b"), memory("a", seed=7, target="y")
    now = old + new
    assert [f.target for f in now.facts] == ["xb", "ya"]
    assert same(now.only(["ca"]), new)
    assert same(old + old, old)
    assert same(now + old.only(["ca"]).inverse(), now)  # what it would take back is not there any more
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
    assert stored.only(["1"]).collisions(stored) == [("1", "3")]
    assert stored.only(["4"]).collisions(stored) == []


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


def many(size, seed=0, width=48):
    """A memory large enough for a first product, whose keys come in tight clusters and some of them twice."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(size // 8, width, generator=rng).repeat(8, 1)
    keys = centres + 0.05 * torch.randn(len(centres), width, generator=rng)
    keys[-3:] = keys[:3]
    facts = [StoredFact(str(i), str(i), "", str(i)) for i in range(len(keys))]
    return Memory.of(keys.T, torch.randn(4, len(keys), generator=rng), 0.8, facts)


@given(seed=st.integers(0, 2**16), spread=st.sampled_from([0.0, 0.01, 0.1, 1.0]))
@settings(max_examples=25, deadline=None)
def test_a_first_product_in_bfloat16_changes_no_answer(seed, spread):
    held = many(ROUGH_FROM, seed % 5)
    rng = torch.Generator().manual_seed(seed)
    asked = held.keys[torch.randint(len(held.keys), (40,), generator=rng)]
    unit = F.normalize(asked + spread * torch.randn(asked.shape, generator=rng), dim=1)
    cosines = unit.double() @ held.keys.double().T
    rough = unit.bfloat16() @ held.keys.bfloat16().T
    assert float((rough.double() - cosines).abs().max()) < room._ROUGH_ERROR
    found = room._among_candidates(unit, held.keys, held.keys.bfloat16())
    if found is not None:
        score, index = found
        best, first = cosines.max(1)
        torch.testing.assert_close(score.double(), best, atol=1e-6, rtol=0)
        chosen = cosines.gather(1, index[:, None])[:, 0]
        assert float((best - chosen).max()) < 1e-6
        twins = (cosines == best[:, None]).sum(1) > 1
        assert torch.equal(index[twins], first[twins])


def test_where_every_entry_may_be_the_nearest_all_are_compared():
    held = many(ROUGH_FROM)
    same = held.keys[:1].expand(ROUGH_FROM, -1).contiguous()
    assert room._among_candidates(held.keys[:40], same, same.bfloat16()) is None
    broken = held.keys[:40].clone()
    broken[3] = float("nan")
    assert room._among_candidates(broken, held.keys, held.keys.bfloat16()) is None


def test_the_bound_of_the_first_product_holds_where_rounding_is_worst():
    """Entries just below the middle of two numbers of bfloat16 all round down, by nearly 2^-8 of themselves."""
    worst = torch.full((1, 1002), (1 + 2**-8) * (1 - 2e-6) * 2**-5)
    rest = (1 - float(worst.double().square().sum())) ** 0.5
    one = torch.cat([worst, torch.tensor([[rest, 0.0]])], 1)
    other = torch.cat([worst, torch.tensor([[0.0, rest]])], 1)
    off = float(one.double() @ other.double().T) - float(one.bfloat16() @ other.bfloat16().T)
    assert 2**-7 < off < room._ROUGH_ERROR


def test_a_memory_reads_the_same_with_and_without_a_first_product(monkeypatch):
    held, rng = many(2 * ROUGH_FROM), torch.Generator().manual_seed(3)
    asked = torch.cat([held.keys[:30], torch.randn(30, 48, generator=rng)])
    found = []
    for fast in (True, False):
        monkeypatch.setattr(room, "_multiplies_bfloat16", lambda _, fast=fast: fast)
        found.append(dataclasses.replace(held).read(asked))
    one, other = found
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.fires, other.fires)
    torch.testing.assert_close(one.score, other.score, atol=1e-6, rtol=0)
    assert one.fires[:30].all()
    assert not one.fires[30:].all()
