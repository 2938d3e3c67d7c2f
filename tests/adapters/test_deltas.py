"""Deltas: what they are, that their cache is known by content, and that halves of the probes can be compared."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_adapters import base, bench, random_factors

from editlab.adapters.deltas import DeltaCache, agreement, deltas_of, make_probes, probe_by_probe, seed_noise
from editlab.adapters.pool import Pool
from editlab.data.tasks import letter_task_set
from editlab.errors import ArtifactError
from editlab.networks.answers import answer_states


@pytest.fixture(scope="module")
def tiny():
    return bench()


def merged_states(model, batch, factors, row):
    """States of a model whose weights hold the adapter."""
    from editlab.networks.architectures import Architecture

    maps = Architecture(model).linear_maps()
    with torch.no_grad():
        for name, (b, a) in factors.items():
            maps[name].weight += b[row] @ a[row]
        return answer_states(model, batch)


def drawn(of):
    """(task, use) of every draw that ``of`` makes from a set of tasks."""
    seen = []

    def spied(task):
        def draw(count, rng, use):
            seen.append((task.name, use))
            return task.draw(count, rng, use)

        return dataclasses.replace(task, draw=draw)

    tasks = letter_task_set("smoke", 0)
    of(dataclasses.replace(tasks, tasks=tuple(spied(task) for task in tasks.tasks)))
    return seen


def test_a_delta_is_the_mean_change_of_the_last_states(tiny):
    probes, name = tiny.probes, tiny.pool.names[3]
    found = deltas_of(tiny.model, probes, [name], tiny.pool.at)[0]
    own = merged_states(base(), probes.batch, tiny.pool.factors, 3)
    torch.testing.assert_close(found, (own - probes.states).mean(dim=(0, 1)), atol=1e-5, rtol=1e-4)


def test_the_base_has_no_delta_and_order_does_not_matter(tiny):
    zero = {k: (torch.zeros_like(b[:1]), a[:1]) for k, (b, a) in tiny.pool.factors.items()}
    assert float(tiny.probes.deltas(tiny.model, zero, 1).abs().max()) == 0
    names = tiny.pool.names
    one, other = (deltas_of(tiny.model, tiny.probes, order, tiny.pool.at, rows=16) for order in (names, names[::-1]))
    torch.testing.assert_close(one, other.flip(0), atol=1e-5, rtol=1e-4)


def test_probes_are_continued_by_the_base_and_follow_their_seed(tiny):
    again = make_probes(base(), tiny.tasks, tiny.study.deltas, 0)
    assert torch.equal(again.batch.answers, tiny.probes.batch.answers)
    assert again.key == tiny.probes.key
    assert make_probes(base(), tiny.tasks, tiny.study.deltas, 1).key != again.key
    assert make_probes(base(1), tiny.tasks, tiny.study.deltas, 0).key != again.key


@pytest.mark.parametrize("change", [{"position": "prompt_end"}, {"position": "neutral"}, {"pool": "concat"}])
def test_every_pooling_gives_finite_deltas_and_a_key_of_its_own(tiny, change):
    options = tiny.study.deltas.model_copy(update=change)
    probes = make_probes(tiny.model, tiny.tasks, options, 0)
    found = deltas_of(tiny.model, probes, tiny.pool.names[:3], tiny.pool.at)
    assert bool(found.isfinite().all())
    assert float(found.norm(dim=1).min()) > 0
    assert probes.key != tiny.probes.key


def test_supervision_sees_every_position_and_a_pooled_one_their_mean(tiny):
    name, probes = tiny.pool.names[2], tiny.probes
    each = deltas_of(tiny.model, probes, [name], tiny.pool.at, supervise=True)[0].reshape(probes.states.shape)
    own = merged_states(base(), probes.batch, tiny.pool.factors, 2)
    torch.testing.assert_close(each, own - probes.states, atol=1e-5, rtol=1e-4)
    pooled = dataclasses.replace(probes, options=probes.options.model_copy(update={"supervise": "pooled"}))
    found = deltas_of(tiny.model, pooled, [name], tiny.pool.at, supervise=True)[0]
    torch.testing.assert_close(found, each.mean(dim=(0, 1)), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "concat"])
def test_every_pooling_is_made_of_what_changes_on_each_probe(tiny, pool):
    probes = dataclasses.replace(tiny.probes, options=tiny.study.deltas.model_copy(update={"pool": pool}))
    names = tiny.pool.names[:4]
    over, first = probe_by_probe(tiny.model, probes, names, tiny.pool.at, rows=16)
    there = make_probes(tiny.model, tiny.tasks, probes.options.model_copy(update={"position": "prompt_end"}), 0)
    for change, way in ((over, probes), (first, there)):
        found = probes.pooled(change)
        torch.testing.assert_close(found, deltas_of(tiny.model, way, names, tiny.pool.at), atol=1e-5, rtol=1e-4)


def test_probes_are_kept_for_that(tiny):
    asked = {(name, use) for name, use in drawn(lambda tasks: make_probes(tiny.model, tasks, tiny.study.deltas, 0))}
    assert {use for _, use in asked} == {"probe"}
    assert {name for name, _ in asked} <= set(tiny.tasks.names("train"))
    assert tiny.probes.part(slice(0, 2)).key != tiny.probes.key


def test_the_cache_knows_adapters_by_their_numbers(tiny, tmp_path):
    path, names = tmp_path / "deltas.safetensors", tiny.pool.names[:4]
    first = DeltaCache(path, tiny.probes).deltas(tiny.model, tiny.pool, names)
    again = DeltaCache(path, tiny.probes)
    assert len(again.found) == 4
    assert torch.equal(again.deltas(tiny.model, tiny.pool, names), first)
    # The same name with other numbers is another adapter.
    retrained = Pool(tiny.pool.names, random_factors(tiny.model, len(tiny.pool), seed=9), tiny.pool.base)
    assert not torch.allclose(again.deltas(tiny.model, retrained, names), first)


def test_a_cache_of_another_model_is_refused(tiny, tmp_path):
    path = tmp_path / "deltas.safetensors"
    DeltaCache(path, tiny.probes).deltas(tiny.model, tiny.pool, tiny.pool.names[:1])
    with pytest.raises(ArtifactError, match="another model or of other probes"):
        DeltaCache(path, make_probes(base(1), tiny.tasks, tiny.study.deltas, 0))
    # So little that it continues the probes as before.
    nudged = base()
    with torch.no_grad():
        next(nudged.parameters())[0, 0] += 1e-6
    probes = make_probes(nudged, tiny.tasks, tiny.study.deltas, 0)
    assert torch.equal(probes.batch.answers, tiny.probes.batch.answers)
    with pytest.raises(ArtifactError, match="another model or of other probes"):
        DeltaCache(path, probes)


def test_reliability_and_seed_noise_are_cosines(tiny):
    train = tiny.tasks.names("train")
    found = agreement(tiny.probes, probe_by_probe(tiny.model, tiny.probes, train, tiny.pool.at)[0])
    everything = deltas_of(tiny.model, tiny.probes, tiny.pool.names, tiny.pool.at)
    noise = seed_noise(tiny.pool, everything, train)
    assert all(-1 <= v <= 1 for v in (found | noise).values())
    # A second training that is the first one bit for bit has nothing that differs.
    rows = [tiny.pool.names.index(n.removesuffix("#2")) for n in tiny.pool.names]
    same = Pool(tiny.pool.names, {k: (b[rows], a[rows]) for k, (b, a) in tiny.pool.factors.items()}, tiny.pool.base)
    assert seed_noise(same, everything[rows], train)["seed_cosine"] == pytest.approx(1.0)


def test_a_pool_comes_back_from_its_file(tiny, tmp_path):
    tiny.pool.save(tmp_path / "pool.safetensors")
    back = Pool.load(tmp_path / "pool.safetensors")
    assert back.names == tiny.pool.names
    assert back.digest(back.names[1]) == tiny.pool.digest(tiny.pool.names[1]) != tiny.pool.digest(tiny.pool.names[2])


def test_a_pool_of_another_base_is_refused(tiny, tmp_path):
    from editlab.adapters.bench import Bench
    from editlab.errors import ModelError

    other = base(1)
    other.save_pretrained(tmp_path / "base")
    other.tokenizer.save_pretrained(tmp_path / "base")
    tiny.pool.save(tmp_path / "pool.safetensors")
    with pytest.raises(ModelError, match="another base"):
        Bench.open(tiny.study, 0, tmp_path / "base", tmp_path / "pool.safetensors")


def test_an_adapter_is_known_by_both_of_its_factors():
    left, right = torch.ones(1, 3, 2), torch.ones(1, 2, 3)
    known = Pool(["a"], {"m": (left, right)}, "base").digest("a")
    assert Pool(["a"], {"m": (left, 2 * right)}, "base").digest("a") != known
    assert Pool(["a"], {"m": (2 * left, right)}, "base").digest("a") != known
