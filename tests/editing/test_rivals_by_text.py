"""Rivals that edit nothing: the nearest fact by text, shown in front of a prompt or answering it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_requests

import editlab
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.editing.checkpoint import Checkpoint
from editlab.editing.gate import Gate
from editlab.editing.retrieval import FactReader, calibrated_likeness, features, likeness, statement
from editlab.editing.session import EditSession
from editlab.errors import ConfigError
from editlab.evaluation.generation import continue_prompts
from editlab.evaluation.scoring import score_requests, score_targets
from editlab.networks.reading import reader_of, reading

RIVALS = ("in_context", "text_lookup")


def session(model: Any, solver: str, **values: Any) -> EditSession:
    recipe = validated(Recipe, {"solver": solver, "layers": [0], "gate": 0.9, **values}, "recipe")
    return EditSession(model, recipe)


@pytest.mark.parametrize("solver", RIVALS)
def test_no_weight_changes_and_the_model_is_given_back(solver):
    model, requests = tiny_model(), tiny_requests(6)
    before = copy.deepcopy(model.state_dict())
    with session(model, solver) as s:
        s.step(requests[:3])
        s.step(requests[3:])
        assert reader_of(model) is s.reader
        assert [f.case_id for f in s.edited] == [r.case_id for r in requests]
        assert s.edit().norm() == 0
    assert reader_of(model) is None
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_before_the_first_fact_scores_are_the_models_own():
    model, requests = tiny_model(), tiny_requests(4)
    plain = score_requests(model, requests)
    for solver in RIVALS:
        with session(model, solver):
            assert score_requests(model, requests).equals(plain)


def test_a_fact_that_is_looked_up_answers_and_others_are_left_to_the_model():
    model, requests = tiny_model(), tiny_requests(6)
    others = [(r.rewrite_prompt, r.target_true) for r in requests[3:]]
    plain = score_targets(model, others)
    with session(model, "text_lookup", gate=0.999) as s:
        s.step(requests[:3])
        new = score_targets(model, [(r.rewrite_prompt, r.target_new) for r in requests[:3]])
        true = score_targets(model, [(r.rewrite_prompt, r.target_true) for r in requests[:3]])
        assert new.correct.all()
        assert not true.correct.any()
        assert (new.log_prob > true.log_prob).all()
        assert continue_prompts(model, [requests[0].rewrite_prompt], 4) == [f" {requests[0].target_new}"]
        left = score_targets(model, others)
        assert np.array_equal(left.log_prob, plain.log_prob)
        s.step([dataclasses.replace(requests[0], case_id="later", target_new=requests[1].target_new)])
        later = score_targets(model, [(requests[0].rewrite_prompt, requests[1].target_new)])
        assert later.correct.all()  # of one subject and relation the later fact holds


def test_in_context_scores_are_those_of_the_statement_and_the_prompt():
    model, requests = tiny_model(), tiny_requests(4)
    first = requests[0]
    pairs = [(first.rewrite_prompt, first.target_new), (first.rewrite_prompt, first.target_true)]
    wanted = score_targets(model, [(f"{statement(first)} {prompt}", target) for prompt, target in pairs])
    text = continue_prompts(model, [f"{statement(first)} {first.rewrite_prompt}"], 4)
    with session(model, "in_context", gate=0.999) as s:
        s.step(requests[:2])
        found = score_targets(model, pairs)
        assert continue_prompts(model, [first.rewrite_prompt], 4) == text
    assert np.array_equal(found.log_prob, wanted.log_prob)
    assert np.array_equal(found.correct, wanted.correct)


def test_likeness_is_a_cosine_that_the_store_does_not_change():
    texts = ["The mother tongue of Ada is", "Ada speaks the language", "Rome lies in"]
    alone = likeness(texts, features(texts[:1]))
    among = likeness(texts, features(texts))
    assert np.allclose(np.diag(among), 1)
    assert np.array_equal(among[:, :1], alone)
    assert among[1, 0] > among[2, 0]


def test_the_gate_parts_paraphrases_from_other_facts():
    facts = [
        dataclasses.replace(r, paraphrase_prompts=[f"Tell me this: {r.rewrite_prompt}"]) for r in tiny_requests(12)
    ]
    gate = calibrated_likeness(facts)
    assert 0 < gate.value < 1
    assert gate.account["paraphrases"] == 1
    reader = FactReader(list(facts), gate, answers=True)
    nearest = reader.nearest([r.paraphrase_prompts[0] for r in facts])
    assert [[f.case_id for f in found] for found in nearest] == [[r.case_id] for r in facts]
    with pytest.raises(ConfigError, match="at least two"):
        calibrated_likeness(facts[:1])


def test_a_stream_that_is_resumed_knows_its_facts(tmp_path):
    model, requests = tiny_model(), tiny_requests(6)
    pairs = [(r.rewrite_prompt, r.target_new) for r in requests]
    with session(model, "text_lookup") as s:
        s.step(requests[:3])
        Checkpoint.capture(s).save(tmp_path / "state.safetensors")
        s.step(requests[3:])
        wanted = score_targets(model, pairs)
    with session(model, "text_lookup") as s:
        Checkpoint.load(tmp_path / "state.safetensors").restore(s)
        s.step(requests[3:])
        found = score_targets(model, pairs)
    assert np.array_equal(found.log_prob, wanted.log_prob)
    assert found.correct.all()


def test_readers_nest():
    model = tiny_model()
    one, two = (FactReader([], Gate(0.5), answers=False) for _ in range(2))
    with reading(model, one):
        with reading(model, two):
            assert reader_of(model) is two
        assert reader_of(model) is one
    assert not hasattr(model, "reader")


@pytest.mark.parametrize("solver", RIVALS)
def test_what_a_rival_cannot_do_is_refused_in_one_line(solver):
    model, requests = tiny_model(), tiny_requests(2)
    with pytest.raises(ConfigError, match="changes no model"):
        editlab.edit(model, requests, method=solver, layers=[0])
    for values, said in (
        ({"backend": "lora"}, "backend: 'lora' is not allowed"),
        ({"backend": "memory"}, "backend: 'memory' is not allowed"),
        ({"trust": {}}, "trust: not allowed"),
    ):
        with pytest.raises(ConfigError, match=said):
            session(model, solver, **values)
    with pytest.raises(ConfigError, match="gate: needs reserved facts"):
        session(model, solver, gate=None)


def test_several_facts_are_shown_the_nearest_last():
    model, requests = tiny_model(), tiny_requests(6)
    first = requests[0]
    index = features([r.rewrite_prompt for r in requests])
    order = np.argsort(-likeness([first.rewrite_prompt], index)[0], kind="stable")[:3]
    with session(model, "in_context", gate=1e-6, shown_facts=3) as s:
        s.step(requests)
        assert s.reader is not None
        shown = s.reader.shown([first.rewrite_prompt])
    assert shown == [" ".join([*(statement(requests[i]) for i in reversed(order)), first.rewrite_prompt])]
    assert order[0] == 0


def test_a_gate_that_nothing_passes_is_told(caplog):
    apart = [dataclasses.replace(r, paraphrase_prompts=["xyz 123"]) for r in tiny_requests(4)]
    recipe = validated(Recipe, {"solver": "text_lookup", "layers": [0]}, "recipe")
    EditSession(tiny_model(), recipe, tuning=apart)
    assert "0 % of the paraphrases of the reserved facts pass the calibrated gate" in caplog.text


def test_what_a_gate_is_chosen_on_is_not_edited():
    facts = tiny_requests(8)
    recipe = validated(Recipe, {"solver": "text_lookup", "layers": [0]}, "recipe")
    with EditSession(tiny_model(), recipe, tuning=facts[:4]) as s:
        s.step(facts[4:])
        with pytest.raises(ConfigError, match=f"tuning: the fact of {facts[1].case_id} is edited"):
            s.step(facts[1:2])
    solved = validated(Recipe, {"solver": "ultra", "layers": [0], "second_moment_weight": 0}, "recipe")
    with EditSession(tiny_model(), solved, tuning=facts[:4]) as s:
        assert s.step(facts[:2]).kept  # nothing was chosen on them
