"""Targets that hold what is said of a subject's other relations: the equation, off as it was, and what it does."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import reference
import torch
from test_targets import CONTEXTS, OPTIONS, TOLERANCE, mixed, model_of, with_
from tiny import tiny_model, tiny_requests

import editlab
from editlab.config.base import validated
from editlab.config.evaluation import Evaluation
from editlab.config.recipe import Recipe
from editlab.data.edited import SubjectFacts
from editlab.data.requests import EditRequest
from editlab.data.subject_prompts import ESSENCE, SubjectPrompts
from editlab.editing import batch_targets
from editlab.editing.checkpoint import identity
from editlab.editing.replay import ReplayItem
from editlab.editing.session import EditSession
from editlab.editing.stream import StreamPlan, run_stream
from editlab.editing.targets import Targets, optimize_targets
from editlab.errors import ConfigError
from editlab.evaluation.prompts import Surroundings, prompt_rows

ASKED = ["{} speaks", "The job of {} is that of a", "At home, {}"]
FACTS = tiny_requests(429)
RELATIONS = SubjectPrompts.of_records(FACTS)


def others(requests: list[EditRequest]) -> list[list[str]]:
    """Of the facts in turn none, one, two and three."""
    return [ASKED[: i % 4] for i in range(len(requests))]


@pytest.mark.parametrize("site", ["block", "mlp"])
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("changed", [{"subject_weight": 1.0}, {"subject_weight": 3.0, "kl_factor": 0.0}], ids=str)
def test_the_targets_are_those_of_the_equation(family, site, changed):
    model, requests = model_of(family), mixed(2)
    options = with_(OPTIONS, **changed)
    options = with_(options, stop_loss=float(_found(model, requests, options, site).loss.median()) * 1.001)
    found = _found(model, requests, options, site)
    assert int(found.steps.min()) < options.steps - 1 == int(found.steps.max())
    for i, request in enumerate(requests):
        z, steps, loss = reference.target(
            model, request, 1, CONTEXTS, steps=options.steps, lr=options.lr, clamp=options.clamp, site=site,
            weight_decay=options.weight_decay, kl_factor=options.kl_factor, stop=options.stop_loss,
            others=others(requests)[i], subject_weight=options.subject_weight,
        )  # fmt: skip
        assert float((found.z[:, i] - z).norm() / z.norm()) < TOLERANCE[torch.float64]
        assert int(found.steps[i]) == steps
        assert float(found.loss[i]) == pytest.approx(loss, rel=1e-6)


def _found(model: Any, requests: list[EditRequest], options: Any, site: str = "block", **more: Any) -> Any:
    return optimize_targets(model, requests, 1, CONTEXTS, options, site=site, others=others(requests), **more)


def test_off_is_bit_for_bit_as_it_was_and_chunks_change_nothing():
    model, requests = model_of("gpt2", torch.float32), mixed(2)
    before = optimize_targets(model, requests, 1, CONTEXTS, OPTIONS)
    off = _found(model, requests, OPTIONS)
    for name in ("z", "base", "steps", "loss"):
        assert torch.equal(getattr(off, name), getattr(before, name))
    model, on = model_of("gpt2"), with_(OPTIONS, subject_weight=1.0)
    whole, parts = (_found(model, requests, on, max_tokens=most) for most in (None, 30))
    torch.testing.assert_close(parts.z, whole.z, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(whole.z, optimize_targets(model, requests, 1, CONTEXTS, OPTIONS).z, atol=1e-3)


def recipe(**values: Any) -> Recipe:
    common = {"solver": "memit", "layers": [1], "clamp": 3.0, "steps": 15, "lr": 0.3, "second_moment_weight": 1.0}
    return validated(Recipe, common | values, "recipe")


def session(given: Recipe, model: Any = None, **more: Any) -> EditSession:
    model = model or tiny_model()
    return EditSession(model, given, statistics={1: torch.eye(64)}, **({"relations": RELATIONS} | more))


def divergence(model: Any, prompts: list[str], before: torch.Tensor) -> float:
    return float((before.exp() * (before - said(model, prompts))).sum(-1).mean())


def said(model: Any, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([model.tokenizer(p).input_ids])).logits[0, -1] for p in prompts]
    return torch.stack(rows).double().log_softmax(-1)


def test_an_edit_moves_the_other_relations_less_and_held_out_wordings_too():
    moved = {}
    for weight in (0.0, 4.0):
        total = torch.zeros(2)
        for fact in FACTS[:4]:
            with session(recipe(solver="emmet", ridge=0.0, subject_weight=weight)) as run:
                held = [t.replace("{}", fact.subject) for t in _asked(run, [fact])[0]]
                other = {f.prompt for f in FACTS[:3] if f.relation_id != fact.relation_id}
                scored = [prompt.replace("{}", fact.subject) for prompt in sorted(other)]
                assert len(held) == len(scored) == 2
                assert not set(held) & set(scored)
                before = said(run.model, held), said(run.model, scored)
                event = run.step([fact])
                parts = zip((held, scored), before, strict=True)
                total += torch.tensor([divergence(run.model, prompts, then) for prompts, then in parts])
            assert event.targets.unrelated == (0 if weight else None)
        moved[weight] = total
    assert (moved[4.0] < 0.9 * moved[0.0]).all()


def _asked(run: EditSession, batch: list[EditRequest]) -> list[list[str]]:
    return [RELATIONS.asked_of(r, 8, run.seed) for r in batch]


def test_what_the_batch_edits_is_not_held():
    one, other = FACTS[0], FACTS[143]
    assert one.subject == other.subject
    assert one.relation_id != other.relation_id
    with session(recipe(subject_weight=1.0)) as run:
        alone = run.proposer.other_relations([one])[0]
        together = run.proposer.other_relations([one, other])[0]
    assert len(alone) == 2
    assert len(together) == 1
    assert not set(together) & set(RELATIONS.templates[other.relation_id])


def test_where_no_relation_is_known_what_any_subject_can_be_asked_is_held(caplog):
    facts, given = FACTS[:4], recipe(subject_weight=1.0, steps=4)
    with caplog.at_level(logging.WARNING), session(given, relations=None) as run:
        counts = [run.step(chunk).targets.unrelated for chunk in (facts[:2], facts[2:])]
        unknown = run.weights[1].clone()
    assert counts == [2, 2]
    assert caplog.text.count("no other relation is known") == 1
    table = {r.relation_id: list(ESSENCE) for r in facts} | {f"more{i}": [t] for i, t in enumerate(ESSENCE)}
    essence = SubjectPrompts({"e": ESSENCE}, {})
    assert essence.asked_of(facts[0], 8, 0) == []
    with session(recipe(steps=4), relations=None) as run:
        for chunk in (facts[:2], facts[2:]):
            run.step(chunk)
        assert not torch.equal(run.weights[1], unknown)
    assert SubjectPrompts.of_table(table, "t").asked_of(facts[0], 8, 0)


def test_the_one_call_form_takes_a_table_or_looks_at_its_own_requests():
    values = {"layers": [1], "statistics": {1: torch.eye(64)}, "subject_weight": 1.0, "steps": 3, "batch": 1}
    table = {r.relation_id: list(RELATIONS.templates[r.relation_id]) for r in FACTS[:3]}
    given, found, off = (
        editlab.edit(tiny_model(), [FACTS[0], FACTS[143]], **(values | more))
        for more in ({"relations": table}, {}, {"subject_weight": 0.0})
    )
    assert not torch.equal(given.delta(1), off.delta(1))
    assert not torch.equal(found.delta(1), off.delta(1))


def test_relations_that_are_not_held_are_scored_apart():
    given = recipe(subject_weight=1.0, subject_share=0.4, steps=3)
    plan = StreamPlan(batch=2, seed=1, evaluation=Evaluation(generation_cases=0, resamples=1))
    with session(given) as run:
        apart = run.proposer.relations_apart
        assert len(apart) == 1
        result = run_stream(run, FACTS[:4], plan, facts=FACTS)
    assert {"SS", "SS_apart"} <= set(result.metrics["metric"])
    rows = prompt_rows(FACTS[0], (), Surroundings(facts=SubjectFacts(FACTS, 1), most=5, apart=apart))
    both = {kind: [r[3] for r in rows if r[1] == kind] for kind in ("same_subject", "same_subject_apart")}
    assert set(both["same_subject_apart"]) <= set(both["same_subject"])
    with session(recipe(steps=3)) as run:
        assert run.proposer.relations_apart == frozenset()
        assert identity(run)["relations"] is not None


def test_a_recipe_that_holds_none_tells_the_same_relations_apart():
    """So that it stands beside one that holds a part of them, on the same facts."""
    held, bare = recipe(subject_weight=1.0, subject_share=0.4, steps=3), recipe(subject_share=0.4, steps=3)
    plain = recipe(steps=3)
    found = [batch_targets.held_relations(r, FACTS) for r in (held, bare, plain)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[2] is None
    assert found[0].apart(0.4, 1) == found[1].apart(0.4, 1) != frozenset()
    changes = []
    for given in (bare, plain):
        with session(given) as run:
            run.step(FACTS[:2])
            changes.append(run.edit().delta(1))
    assert torch.equal(*changes)


def test_a_memory_with_keys_of_prompts_has_no_use_for_it():
    given = {"backend": "memory", "subject_weight": 1.0, "gate": 0.9, "second_moment_weight": 15000.0}
    with pytest.raises(ConfigError, match="subject_weight: not allowed with lookup prompt"):
        recipe(**given)
    assert recipe(**given, lookup="subject").holds_subject
    with pytest.raises(ConfigError, match="subject_weight: unknown key for ft"):
        validated(Recipe, {"solver": "ft", "layers": [1], "subject_weight": 1.0}, "recipe")


def test_what_is_said_of_a_fact_that_is_edited_beside_is_not_held():
    def of_one_subject(case: str, prompt: str, relation: str) -> EditRequest:
        return dataclasses.replace(FACTS[0], case_id=case, prompt=prompt, subject="Anna Abel", relation_id=relation)

    old, new = of_one_subject("old", "{} speaks", "P1"), of_one_subject("new", "The job of {} is that of a", "P2")
    relations = SubjectPrompts({"P1": (old.prompt,), "P2": (new.prompt,), "P3": ("{} lives in",)}, {"P1": ("P2", "P3")})
    recipe = validated(Recipe, {"solver": "memit", "layers": [1], "subject_weight": 1.0}, "recipe")
    run = EditSession(tiny_model(), recipe, statistics={1: reference.moment(64)}, relations=relations)
    assert run.proposer.other_relations([old]) == [[new.prompt, "{} lives in"]]
    assert run.proposer.other_relations([old], [new]) == [["{} lives in"]]
    held = []
    with pytest.MonkeyPatch.context() as patch, run:
        patch.setattr(batch_targets, "optimize_targets", lambda *_, others, **__: held.append(others) or targets)
        item = ReplayItem(old, torch.zeros(64), 0.0, 0, 0)
        targets = Targets(torch.zeros(64, 1), torch.zeros(64, 1), torch.ones(1), torch.zeros(1))
        run.proposer.recipe = recipe.model_copy(update={"replay_targets": "recomputed"})
        run.proposer.columns([new], targets, [item])
    assert held == [[["{} lives in"]]]
