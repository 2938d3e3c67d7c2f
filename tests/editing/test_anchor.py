"""Norm-anchor scaling as published: the length of pilot edits, what is rescaled and what is given up."""

from __future__ import annotations

import pytest
import torch
from test_session import CONTEXTS, MOMENTS, hyper, run, session
from tiny import tiny_model, tiny_requests

import editlab
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.editing.anchor import anchor_length, anchored
from editlab.editing.keys import compute_values
from editlab.editing.session import EditSession
from editlab.editing.targets import Targets, optimize_targets
from editlab.errors import ConfigError

PILOTS, FACTS = tiny_requests(70)[30:70], tiny_requests(6)


def targets(z: torch.Tensor, base: torch.Tensor) -> Targets:
    return Targets(z, base, torch.ones(z.shape[1]), torch.zeros(z.shape[1]))


def anchored_session(model, replay: float = 1.0, **values) -> EditSession:
    given = {"solver": "memit", "layers": [1], **hyper("memit"), "anchor_pilots": 40, **values}
    recipe = validated(Recipe, given, "recipe")
    return EditSession(model, recipe, statistics=MOMENTS, contexts=CONTEXTS, tuning=PILOTS, replay=replay)


def test_the_length_is_the_mean_without_the_longest_twentieth():
    base, outputs = torch.zeros(3, 40).double(), torch.zeros(3, 40).double()
    base[0], outputs[1] = 5.0, 3.0
    z = base.clone()
    z[2] = torch.arange(40)  # delta; v has the length sqrt(9 + i^2)
    expected = sum((9 + i * i) ** 0.5 for i in range(38)) / 38
    assert anchor_length(outputs, targets(z, base)) == pytest.approx(expected)
    assert anchor_length(outputs[:, 7:12], targets(z[:, 7:12], base[:, 7:12])) == pytest.approx(
        sum((9 + i * i) ** 0.5 for i in range(7, 12)) / 5
    )


def test_the_part_of_the_mlp_gets_the_length_and_what_is_too_long_is_given_up():
    generator = torch.Generator().manual_seed(0)
    outputs, base, delta = (torch.randn(8, 5, generator=generator).double() for _ in range(3))
    delta[:, 3] *= 100.0
    found = anchored(outputs, targets(base + delta, base), 4.0)
    own = found.z - base + outputs
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(own[:, kept].norm(dim=0), torch.full((4,), 4.0).double())
    direction = torch.nn.functional.normalize(outputs + delta, dim=0)
    torch.testing.assert_close(own[:, kept], 4.0 * direction[:, kept])
    assert torch.equal(found.z[:, 3], base[:, 3])
    assert found.skipped == 1


def test_a_stream_is_anchored_to_edits_of_the_unedited_model():
    """Against the definition, the pilots' targets found by hand on the clean model."""
    model = tiny_model("gpt2").double()
    with anchored_session(model) as live:
        options = live.recipe
        pilots = optimize_targets(model, PILOTS, 1, CONTEXTS, options)
        lengths = (compute_values(model, PILOTS, 1, "mlp") + pilots.delta).norm(dim=0).sort().values
        length = float(lengths[:38].mean())
        for start in (0, 3):
            event = live.step(FACTS[start : start + 3])
            assert event.targets.skipped == 0
        assert live.proposer.anchor_length == pytest.approx(length, rel=1e-9)
        stored = torch.stack([item.target for item in live.buffer.items.values()][:3], 1)
    clean = compute_values(model, FACTS[:3], 1), compute_values(model, FACTS[:3], 1, "mlp")
    own = stored - clean[0] + clean[1]
    torch.testing.assert_close(own.norm(dim=0), torch.full((3,), length).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("given", [{"solver": "rome", "rewind": True}, {"solver": "emmet", "rewind": True}])
def test_it_goes_with_other_solvers_and_with_rewinding(given):
    solver = given["solver"]
    model = tiny_model("gpt2").double()
    with anchored_session(model, 0.0, **{**hyper(solver), **given}) as live:
        events = [live.step([fact]) for fact in FACTS[:2]]
        assert all(event.kept for event in events)


def test_without_pilots_nothing_changes_and_faults_are_named():
    model = tiny_model("gpt2")
    plain = run(model, FACTS, 2)[1].delta(1)
    assert torch.equal(run(model, FACTS, 2, anchor_pilots=0)[1].delta(1), plain)
    with pytest.raises(ConfigError, match="anchor_pilots: 5 is not allowed without reserved facts"):
        session(model, anchor_pilots=5)
    with pytest.raises(ConfigError, match="anchor_pilots: 5 is not allowed with norm_anchor"):
        session(model, anchor_pilots=5, norm_anchor=True)
    edit = editlab.edit(
        model, FACTS[:2], layers=[1], statistics=MOMENTS, **hyper("memit"), anchor_pilots=4, tuning=PILOTS
    )
    assert edit.norm() > 0
