"""Probes: conditions, AND and OR, generated answers, and what they say of a model that is known by heart."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from tiny import tiny_model, tiny_requests

from editlab.data import make_facts, true_statements
from editlab.data.chains import CAPITAL_OF, CHAINS, COUNTRY_OF
from editlab.data.inverses import described, true_world
from editlab.data.probes import GENERATION, INVERSE, MULTI_HOP, SINGLE_HOP, Probe, Question
from editlab.data.world import RELATIONS
from editlab.data.world_probes import unique_aliases, with_world_probes
from editlab.evaluation import probing
from editlab.evaluation.probing import (
    answer_questions,
    first_sentence,
    normalise,
    questions_of,
    rewrite_question,
    sample_probes,
    score_probes,
    summarize_probes,
)
from editlab.evaluation.scoring import score_targets


def ask(name: str, *names: str) -> Question:
    return Question(f"prompt {name}", (names or ("x",),))


def verdicts(**right: bool) -> dict[Question, dict[str, bool]]:
    return {ask(name): dict.fromkeys(("accuracy", "exact", "contained"), value) for name, value in right.items()}


def scored(probe: Probe, before: dict, after: dict) -> float:
    request = dataclasses.replace(tiny_requests(1)[0], probes=(probe,))
    frame = score_probes([request], before, after)
    return float(frame.loc[(frame["kind"] == probe.kind) & (frame["measure"] == "contained"), "right"].iloc[0])


def test_one_question_is_enough_or_all_are_needed():
    both = (ask("a"), ask("b"))
    after = verdicts(a=True, b=False)
    assert scored(Probe("k", both), {}, after) == 1.0
    assert scored(Probe("k", both, every=True), {}, after) == 0.0
    assert scored(Probe("k", both, every=True), {}, verdicts(a=True, b=True)) == 1.0
    assert scored(Probe("k", both), {}, verdicts(a=False, b=False)) == 0.0


def test_a_probe_counts_only_when_the_unedited_model_knew_its_conditions():
    probe = Probe("k", (ask("a"),), conditions=(ask("c"), ask("d")))
    assert scored(probe, verdicts(c=True, d=True), verdicts(a=True)) == 1.0
    assert np.isnan(scored(probe, verdicts(c=True, d=False), verdicts(a=True)))


def test_accuracy_is_conditioned_on_accuracy_and_written_answers_on_written_ones():
    request = dataclasses.replace(tiny_requests(1)[0], probes=(Probe("k", (ask("a"),), conditions=(ask("c"),)),))
    before = {ask("c"): {"accuracy": True, "exact": False, "contained": False}}
    after = verdicts(a=True)
    frame = score_probes([request], before, after).query("kind == 'k'").set_index("measure")["right"]
    assert frame["accuracy"] == 1.0
    assert np.isnan(frame["contained"])
    assert np.isnan(frame["exact"])


def test_multi_hop_is_also_scored_among_cases_that_know_their_hops():
    probes = (Probe(MULTI_HOP, (ask("m"),)), Probe(SINGLE_HOP, (ask("a"), ask("b")), every=True))
    requests = [dataclasses.replace(r, probes=probes) for r in tiny_requests(1)]
    for knows in (True, False):
        table = summarize_probes(score_probes(requests, {}, verdicts(m=True, a=True, b=knows)), resamples=0)
        row = table[(table["metric"] == "multi_hop_of_known_hops") & (table["protocol"] == "exact")].iloc[0]
        assert (row["n"], row["value"]) == (1, 1.0) if knows else row["n"] == 0


def test_means_are_over_cases_and_the_gap_is_paired():
    probes = (Probe("Reasoning", (ask("a"),)), Probe("Reasoning", (ask("b"),)))
    requests = [dataclasses.replace(r, probes=probes) for r in tiny_requests(2)]
    requests[1] = dataclasses.replace(requests[1], probes=requests[1].probes[:1])
    requests = sample_probes(requests, 2, seed=0)
    after = verdicts(a=True, b=False)
    for i, request in enumerate(requests):
        after[rewrite_question(request)] = {"accuracy": True, "exact": i == 0, "contained": True}
    table = summarize_probes(score_probes(requests, {}, after), resamples=200).set_index(["metric", "protocol"])
    assert table.loc[("portability", "exact"), "value"] == pytest.approx((0.5 + 1.0) / 2)
    assert table.loc[("portability", "exact"), "n"] == 2
    assert table.loc[("generation", "gap"), "value"] == pytest.approx(0.5)
    low, high = table.loc[("generation", "gap"), ["ci_low", "ci_high"]]
    assert low <= 0.5 <= high


def test_a_sample_keeps_so_many_cases_of_each_kind_and_is_drawn_by_seed():
    requests = make_facts(360, 1, chains=True)
    sampled = sample_probes(requests, 12, seed=3)
    cases = Counter((p.kind, r.case_id) for r in sampled for p in r.probes)
    kinds = Counter(kind for kind, _ in cases)
    there = Counter(kind for r in requests for kind in {p.kind for p in r.probes} | {GENERATION})
    assert kinds == {kind: min(12, count) for kind, count in there.items()}
    assert kinds[MULTI_HOP] == 12
    assert {"Question_Form", INVERSE, MULTI_HOP, SINGLE_HOP, GENERATION} <= set(kinds)
    assert {c for k, c in cases if k == MULTI_HOP} == {c for k, c in cases if k == SINGLE_HOP}
    assert sample_probes(requests, 12, seed=3) == sampled != sample_probes(requests, 12, seed=4)
    assert [r.case_id for r in sampled] == sorted(r.case_id for r in sampled)
    assert sample_probes(requests, 0, seed=3) == []
    everything = sample_probes(requests, len(requests), seed=3)
    own = [(Probe(GENERATION, (rewrite_question(r),))) for r in requests]
    assert [r.probes for r in everything] == [(*r.probes, o) for r, o in zip(requests, own, strict=True)]


@pytest.mark.parametrize(
    ("text", "plain"), [("The  U.S., a land!", "u s land"), ("An answer", "answer"), ("  ", ""), ("Zürich", "zürich")]
)
def test_normalisation_is_squads(text, plain):
    assert normalise(text) == plain


def test_an_answer_ends_at_the_first_stop():
    assert first_sentence(" Rome. Then Paris") == "Rome"
    assert first_sentence("Rome\nParis.") == "Rome"
    assert first_sentence(" Rome ") == "Rome"


def test_questions_are_scored_by_teacher_forcing_and_by_what_the_model_writes():
    from editlab.evaluation.generation import continue_prompts

    model = tiny_model()
    prompts = [r.rewrite_prompt for r in tiny_requests(6)]
    texts = continue_prompts(model, prompts, 4)
    questions = [Question(p, ((t.strip() or "x", "zzz"),)) for p, t in zip(prompts, texts, strict=True)]
    questions.append(Question(prompts[0], (("zzz",),)))
    found = answer_questions(model, questions, max_new_tokens=4)
    forced = score_targets(model, [(q.prompt, q.answer) for q in questions]).correct
    assert [found[q]["accuracy"] for q in questions] == forced.tolist()
    for question, text in zip(questions, texts, strict=False):
        written = normalise(first_sentence(text))
        assert found[question]["exact"] == (bool(written) and written == normalise(question.answer))
    assert not found[questions[-1]]["contained"]
    assert answer_questions(model, []) == {}


@pytest.mark.parametrize(("names", "text", "exact", "contained"), [
    (("Washington, D.C.",), " Washington, D.C. It is large.", True, True),
    (("Washington, D.C.",), " washington, d.c.", True, True),
    (("Washington, D.C.",), " Washington. D.C.", False, False),
    (("Washington, D.C.",), " the city of Washington, D.C., which", False, True),
    (("St. Louis", "Saint Louis"), " St. Louis.", True, True),
    (("St. Louis", "Saint Louis"), " Saint Louis. Or", True, True),
    (("St. Louis",), " St. Petersburg.", False, False),
    (("J. R. R. Tolkien",), " J. R. R. Tolkien\nand", True, True),
    (("Martin Luther King Jr.",), " Martin Luther King Jr. was", True, True),
    ((")",), " ).", True, True),
    ((")",), " Yes.", False, False),
    (("The",), " The.", True, True),
    (("The",), "", False, False),
])  # fmt: skip
def test_a_stop_inside_of_an_answer_does_not_end_it(monkeypatch, names, text, exact, contained):
    asked = Question("Where?", (names,))

    def write(_model, prompts, _count, *, stop=None):
        return [text if stop is None else text[: text.find(stop) + 1] or text for _ in prompts]

    monkeypatch.setattr(probing, "continue_prompts", write)
    found = answer_questions(tiny_model(), [asked, Question("Who?", (("Bo",),))])[asked]
    assert (found["exact"], found["contained"]) == (exact, contained)


def test_greedy_continuations_are_those_of_the_argmax_and_do_not_depend_on_packing():
    import torch

    from editlab.evaluation.generation import continue_prompts

    model = tiny_model("llama")
    prompts = [r.rewrite_prompt for r in tiny_requests(5)]
    texts = continue_prompts(model, prompts, 6)
    assert texts == continue_prompts(model, prompts, 6, max_tokens=1)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = model.tokenizer(prompt).input_ids
        start = len(ids)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == model.tokenizer.eos_token_id:
                break
        assert text == model.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decoding_that_ends_at_the_stop_says_the_same_up_to_it(family):
    from editlab.evaluation.generation import continue_prompts

    model = tiny_model(family, seed=5)
    prompts = [r.rewrite_prompt for r in tiny_requests(40)]
    whole = continue_prompts(model, prompts, 12)
    letters = Counter("".join(whole)).most_common(8)
    for stop in [letter for letter, _ in letters] + ["."]:
        cut = continue_prompts(model, prompts, 12, stop=stop)
        ended = [text for text in cut if stop in text]
        assert all(long.startswith(short) for long, short in zip(whole, cut, strict=True))
        assert all(short == long or stop in short for long, short in zip(whole, cut, strict=True))
        assert ended or stop == "."


class TestWorld:
    def test_chains_change_no_request_and_add_statements_at_the_end(self):
        plain, chained = make_facts(360, 1), make_facts(360, 1, chains=True)
        assert [dataclasses.replace(r, probes=()) for r in chained] == plain
        before, after = true_statements(plain), true_statements(chained)
        assert after[: len(before)] == before
        assert 0 < len(after) - len(before) < 0.2 * len(before)

    def test_every_object_of_a_chain_has_its_second_hop(self):
        for relation in RELATIONS:
            if relation.identifier in CHAINS:
                assert set(relation.objects) <= set(CHAINS[relation.identifier].follows)
        assert len(set(CAPITAL_OF.values())) == len(CAPITAL_OF)
        assert len(COUNTRY_OF) == 30

    def test_two_hop_probes_follow_the_new_object(self):
        for request in make_facts(360, 1, chains=True):
            for probe in request.probes:
                if probe.kind == MULTI_HOP:
                    follows = CHAINS[request.relation_id].follows
                    assert probe.questions[0].answer == follows[request.target_new] != follows[request.target_true]
                    assert probe.conditions[0] == Question(
                        probe.questions[0].prompt, ((follows[request.target_true],),)
                    )

    def test_an_inverse_has_one_right_answer_before_the_edit_and_after_it(self):
        records = make_facts(1800, 1, chains=True)
        probed = [(r, p) for r in records for p in r.probes if p.kind == INVERSE]
        assert len(probed) > 400
        before = described(true_world(records))
        for request, probe in probed[::20]:
            (known,), (asked,) = probe.conditions, probe.questions
            assert before[known.prompt] == {request.subject} == {known.answer} == {asked.answer}
            assert asked.prompt not in before
            assert request.target_true in known.prompt
            assert request.target_new in asked.prompt
            assert described(true_world(records, [request]))[asked.prompt] == {request.subject}

    def test_inverses_that_other_edits_of_the_stream_spoil_are_not_asked(self):
        records = make_facts(1800, 1, chains=True)
        chosen = [r for r in records if any(p.kind == INVERSE for p in r.probes)]
        world = described(true_world(records, chosen))
        asked = [(r, p) for r in with_world_probes(chosen, records) for p in r.probes if p.kind == INVERSE]
        assert 0 < len(asked) < len(chosen)
        assert all(world[p.questions[0].prompt] == {r.subject} for r, p in asked)

    def test_aliases_are_of_one_subject_each(self):
        records = make_facts(360, 1)
        aliases = unique_aliases(records)
        assert len(set(aliases.values())) == len(aliases) > 0.9 * len({r.subject for r in records})
        assert all(alias.split()[1] == subject.split()[1] for subject, alias in aliases.items())

    def test_probes_of_a_stream_ask_for_unedited_facts_alone(self):
        records = make_facts(360, 1)
        chosen = records[:60]
        edited = {(r.rewrite_prompt) for r in chosen}
        probed = with_world_probes(chosen, records)
        assert [dataclasses.replace(r, probes=()) for r in probed] == chosen
        kinds = [probe.kind for r in probed for probe in r.probes]
        assert kinds.count("Subject_Aliasing") > 50
        for probe in (p for r in probed for p in r.probes if p.kind == "Relation_Specificity"):
            assert probe.questions == probe.conditions
            assert probe.questions[0].prompt not in edited
        assert len(questions_of(sample_probes(probed, 60, 0))) >= 60

    def test_other_data_sets_stay_as_they_are(self):
        requests = tiny_requests(5)
        assert with_world_probes(requests, requests) == requests
