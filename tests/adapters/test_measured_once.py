"""What is drawn, measured or merged once for many uses is what each use would have made for itself."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch
from tiny_adapters import bench

from editlab.adapters.deltas import DeltaCache, deltas_of, make_probes
from editlab.adapters.references import fixed
from editlab.adapters.scoring import Scorer
from editlab.adapters.stages import _changes


@pytest.fixture(scope="module")
def tiny():
    return bench()


def test_one_adapter_for_all_rows_scores_as_one_a_task(tiny):
    names, own = tiny.tasks.names("train"), tiny.pool.names[3]
    together = tiny.scorer.score(names, fixed(tiny.pool, own))
    pd.testing.assert_frame_equal(together, tiny.scorer.score(names, lambda part: tiny.pool.at([own] * len(part))))
    [(left, right), *_] = fixed(tiny.pool, own)(names).values()
    [(expected_left, expected_right), *_] = tiny.pool.at([own]).values()
    assert torch.equal(left, expected_left)
    assert torch.equal(right, expected_right)


def test_examples_that_are_kept_are_those_of_a_new_scorer(tiny):
    names = tiny.tasks.names("train")
    kept = tiny.scorer
    for described in (False, True, False):
        new = Scorer(tiny.model, tiny.tasks, tiny.study.scores, tiny.seed, tiny.study.scores.strings)
        one, other = (s._encoded(names, described) for s in (kept, new))
        assert torch.equal(one.prompts, other.prompts)
        assert torch.equal(one.answers, other.answers)
    assert not torch.equal(kept._encoded(names[:1], False).prompts, kept._encoded(names[1:2], False).prompts)


def test_deltas_that_were_measured_are_read(tiny, tmp_path):
    split, path = tiny.splits()[0], tmp_path / "deltas.safetensors"
    own = tiny.data(split).deltas
    DeltaCache(path, tiny.probes).keep(
        tiny.pool, tiny.pool.names, deltas_of(tiny.model, tiny.probes, tiny.pool.names, tiny.pool.at)
    )
    read = dataclasses.replace(tiny, deltas=path).data(split)
    torch.testing.assert_close(read.deltas, own, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(read.centre, own.mean(dim=0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("position", ["answer", "prompt_end", "neutral"])
def test_every_place_is_looked_at_in_its_own_pass(tiny, position):
    options = tiny.study.deltas.model_copy(update={"position": position})
    probes = make_probes(tiny.model, tiny.tasks, options, tiny.seed)
    found = probes.pooled(_changes(tiny)[position])
    torch.testing.assert_close(
        found, deltas_of(tiny.model, probes, tiny.pool.names, tiny.pool.at), atol=1e-5, rtol=1e-4
    )
