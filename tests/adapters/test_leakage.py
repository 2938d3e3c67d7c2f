"""Nothing of a held-out task reaches what is trained or chosen: its teacher, its examples, its wordings."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_adapters import bench

from editlab.adapters.generation import DECODERS, train_generator
from editlab.adapters.losses import SUPERVISIONS
from editlab.adapters.pool import Pool
from editlab.adapters.predictor import fit_predictor
from editlab.adapters.scoring import Scorer
from editlab.adapters.stages import measure_deltas
from editlab.data.tasks import TaskSet


def poisoned(tiny):
    """The bench with teachers of test tasks that are not numbers, and test tasks that cannot be drawn from."""
    held_out = set(tiny.tasks.names("test"))
    rows = [i for i, name in enumerate(tiny.pool.names) if name in held_out]
    factors = {k: (b.clone(), a.clone()) for k, (b, a) in tiny.pool.factors.items()}
    for b, a in factors.values():
        b[rows], a[rows] = torch.nan, torch.nan

    def refuse(*_):
        raise AssertionError("a held-out task was drawn from")

    tasks = [dataclasses.replace(t, draw=refuse) if t.name in held_out else t for t in tiny.tasks.tasks]
    pool = Pool(tiny.pool.names, factors, tiny.pool.base)
    return dataclasses.replace(tiny, pool=pool, tasks=TaskSet(tuple(tasks), tiny.tasks.ends))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_generators_are_the_same_whatever_the_held_out_teachers_are(decoder, supervision):
    found = []
    for tiny in (bench(), poisoned(bench())):
        split = tiny.splits()[0]
        made = train_generator(tiny, tiny.data(split), split, decoder, supervision)
        found.append((made.changes(split.test), made.log))
    (one, first), (other, second) = found
    assert first == second
    for key, change in one.items():
        pairs = [(change, other[key])] if torch.is_tensor(change) else zip(change, other[key], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_predictor_is_chosen_on_validation_tasks_alone(monkeypatch):
    tiny = poisoned(bench())
    split = tiny.splits()[0]
    asked, score = [], Scorer.score

    def spied(self, names, *rest, **options):
        asked.append((self.purpose, frozenset(names)))
        return score(self, names, *rest, **options)

    monkeypatch.setattr(Scorer, "score", spied)
    data = tiny.data(split)
    predictor = fit_predictor(data, [0.1, 1.0], tiny.validation, split.validation)
    assert set(asked) == {("validation", frozenset(split.validation))}
    assert bool(predictor.coefficients(split.test).isfinite().all())


def test_wordings_of_held_out_tasks_are_not_in_the_vocabulary():
    tiny = bench()
    split = tiny.splits()[0]
    data = tiny.data(split)
    strange = [
        dataclasses.replace(t, held_out=("zebra quagga",), descriptions=("okapi",)) if t.name in split.test else t
        for t in tiny.tasks.tasks
    ]
    other = dataclasses.replace(tiny, tasks=TaskSet(tuple(strange), tiny.tasks.ends)).data(split)
    assert torch.equal(other.text(split.train), data.text(split.train))
    assert float(other.text(split.test).abs().max()) == 0
    assert all(data.wordings(name) == tiny.tasks[name].held_out for name in (*split.validation, *split.test))


@pytest.mark.parametrize("gate", ["prompted", "bare", "teachers", "reliability"])
def test_each_gate_opens_and_closes_at_its_limit(gate, tmp_path):
    tiny = bench()
    _, _, gates = measure_deltas(tiny, tmp_path / "deltas.safetensors")
    value = gates["measured"][gate]
    if gate == "teachers":  # the least exact match of a teacher decides about the share
        limits = {"teacher": 0.0, "teachers": 1.0}, {"teacher": 1.0, "teachers": 1.0}
    elif gate == "bare":
        limits = {"bare": 1.0}, {"bare": 0.0}
    else:
        limits = {gate: max(0.0, value)}, {gate: min(1.0, value + 0.01)}
    for change, holds in zip(limits, (True, gate == "bare" and value == 0), strict=True):
        study = tiny.study.model_copy(update={"gates": tiny.study.gates.model_copy(update=change)})
        _, _, found = measure_deltas(dataclasses.replace(tiny, study=study), tmp_path / "deltas.safetensors")
        assert found["holds"][gate] == holds
        assert found["limits"] == study.gates.model_dump()
