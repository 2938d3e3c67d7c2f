"""Backend memory on tiny models: sessions, edits as objects, trust, checkpoints, the gate, and the code in the documentation."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

import editlab
from editlab.config.base import validated
from editlab.config.recipe import RECIPES, Recipe
from editlab.config.solvers import SOLVERS
from editlab.data import batches
from editlab.editing import gate as gates
from editlab.editing.checkpoint import Checkpoint
from editlab.editing.gated_memory import MemoryStore, firing_rate, stored_facts
from editlab.editing.keys import CLEAN
from editlab.editing.probes import GainProbe
from editlab.editing.session import EditSession
from editlab.edits.edit import Edit
from editlab.errors import ConfigError, ModelError, NumericalError
from editlab.evaluation.generation import continue_prompts, generate
from editlab.evaluation.scoring import score_targets
from editlab.networks.architectures import Architecture
from editlab.networks.lookup import Lookup, prompts_ending, remembering
from editlab.networks.memory import Memory, StoredFact
from editlab.networks.tokenization import Encoder, pad

GATE = 0.9995  # prompts of random models are close to one another
LAYER = 1
TEXTS = [f"A {word} in the city of Rome and the old sea near {word}." for word in ("lawyer", "painter", "doctor")]


def recipe(**values: Any) -> Recipe:
    common = {"solver": "memit", "layers": [LAYER], "backend": "memory", "gate": GATE, "clamp": 4.0, "steps": 5}
    return validated(Recipe, common | values, "recipe")


def edited(model: Any, requests: Any, **values: Any) -> Edit:
    session = EditSession(model, recipe(**values))
    with session:
        for chunk in batches(requests, 3):
            session.step(chunk)
        return session.edit()


def rows(model: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return pad(Encoder(model.tokenizer).prompts(prompts), 0)


def logits(model: Any, prompts: list[str] | None = None) -> torch.Tensor:
    ids, mask = rows(model, prompts or [r.rewrite_prompt for r in tiny_requests(12)])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def answers(model: Any, requests: Any) -> torch.Tensor:
    """Log-probability of the first token of every new object."""
    encoder = Encoder(model.tokenizer)
    pairs = encoder.pairs([r.rewrite_prompt for r in requests], [r.target_new for r in requests])
    found = []
    for pair in pairs:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([pair.prompt])).logits[0, -1].log_softmax(-1)
        found.append(out[pair.target[0]])
    return torch.stack(found)


def same(one: Memory, other: Memory) -> bool:
    parts = all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("keys", "residuals", "gates"))
    return parts and one.facts == other.facts


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_is_remembered_and_the_model_comes_back(family):
    model, facts = tiny_model(family), tiny_requests(6)
    before, answered = logits(model), answers(model, facts)
    session = EditSession(model, recipe())
    with session:
        assert torch.equal(logits(model), before)  # nothing stored: bit for bit the model
        for chunk in batches(facts, 3):
            session.step(chunk)
        inside = answers(model, facts)
        assert (inside > answered).all()
        edit = session.edit()
        weights = session.weights[LAYER]
        assert torch.equal(weights, session.originals[LAYER])
    assert torch.equal(logits(model), before)
    assert hooks(model) == 0
    assert [f.case_id for f in edit.memory[LAYER].facts] == [r.case_id for r in facts]
    with edit.applied(model):
        assert torch.equal(answers(model, facts), inside)
    assert torch.equal(logits(model), before)
    assert hooks(model) == 0


def test_facts_do_not_depend_on_batches_or_their_order():
    model, facts = tiny_model(), tiny_requests(6)
    one = edited(model, facts).memory[LAYER]
    other = edited(model, facts[::-1]).memory[LAYER]
    order = [[f.case_id for f in other.facts].index(f.case_id) for f in one.facts]
    assert torch.allclose(one.keys, other.keys[order], atol=1e-6)
    assert torch.allclose(one.residuals, other.residuals[order], atol=1e-4)


def test_facts_taken_out_leave_no_trace():
    model, facts = tiny_model(), tiny_requests(6)
    before, edit = logits(model), edited(model, facts)
    fewer = edit.without([r.case_id for r in facts[1:]])
    alone = edited(model, facts[:1])
    assert [f.case_id for f in fewer.memory[LAYER].facts] == ["0"]
    assert torch.allclose(fewer.memory[LAYER].residuals, alone.memory[LAYER].residuals, atol=1e-4)
    with fewer.without(["0"]).applied(model):
        assert torch.equal(logits(model), before)
    with pytest.raises(ConfigError, match=r"case '77' is in no memory"):
        edit.without(["77"])
    one, other = (edited(model, [dataclasses.replace(fact, case_id="0")]) for fact in facts[:2])
    with pytest.raises(ConfigError, match=r"case '0' is 2 facts"):
        (one + other).without(["0"])
    left = (one + other).without([facts[0].key])
    assert left.memory[LAYER].facts == other.memory[LAYER].facts


def test_a_fact_that_comes_again_is_replaced():
    model, facts = tiny_model(), tiny_requests(3)
    again = dataclasses.replace(facts[0], case_id="again", target_new=facts[1].target_new)
    session = EditSession(model, recipe())
    with session:
        session.step(facts)
        event = session.step([again])
        stored = session.edit().memory[LAYER].facts
    assert [f.case_id for f in stored] == ["1", "2", "again"]
    assert (event.layers[str(LAYER)].replaced, event.layers[str(LAYER)].entries) == (1, 3)


def test_sums_and_inverses_are_exact():
    model, facts = tiny_model(), tiny_requests(6)
    a, b = edited(model, facts[:3]), edited(model, facts[3:])
    before = logits(model)
    with a.applied(model):
        with_a = logits(model)
        with b.applied(model):
            with_both = logits(model)
            with a.inverse().applied(model), b.inverse().applied(model):
                assert torch.equal(logits(model), before)
        assert torch.equal(logits(model), with_a)
        with a.inverse().applied(model):
            assert torch.equal(logits(model), before)
    with (a + b).applied(model):
        assert torch.equal(logits(model), with_both)
    assert not torch.equal(with_a, with_both)
    assert (a + a.inverse()).memory[LAYER].size == 0
    assert same((a + b + b.inverse()).memory[LAYER], a.memory[LAYER])
    assert a.norm() == pytest.approx(float(a.memory[LAYER].residuals.double().norm()))
    assert a.scaled(0.5).norm() == pytest.approx(a.norm() / 2)
    with pytest.raises(ConfigError, match="no rule but the plain sum"):
        Edit.merge([a, b], [1.0, 1.0], rule="ties")
    with pytest.raises(ConfigError, match="adapter cannot hold"):
        a.to_peft("nowhere")


def test_applied_for_good_and_on_top_of_a_session():
    model, facts = tiny_model(), tiny_requests(6)
    edit = edited(model, facts[:3])
    with edit.applied(model):
        expected = logits(model)
    edit.apply_(model)
    assert torch.equal(logits(model), expected)
    with EditSession(model, recipe()) as session:
        session.step(facts[3:])
        assert (answers(model, facts) > answers(tiny_model(), facts)).all()
    assert torch.equal(logits(model), expected)


def test_files_keep_every_bit(tmp_path: Path):
    model, facts = tiny_model(), tiny_requests(4)
    edit = edited(model, facts)
    edit.save(tmp_path / "memory.safetensors")
    loaded = Edit.load(tmp_path / "memory.safetensors")
    assert same(loaded.memory[LAYER], edit.memory[LAYER])
    assert loaded.memory[LAYER].everywhere is edit.memory[LAYER].everywhere is False
    assert (loaded.layers, dict(loaded.factors), dict(loaded.info)) == ([LAYER], {}, dict(edit.info))
    with pytest.raises(ModelError, match="shape"):
        loaded.applied(tiny_model(width=64)).__enter__()
    with pytest.raises(ModelError):
        loaded.applied(tiny_model("llama")).__enter__()


@pytest.mark.parametrize(
    "solver", [n for n, s in SOLVERS.items() if s.targets and n not in ("random", "prune_published")]
)
def test_every_solver_with_targets_will_do(solver):
    model, facts = tiny_model(), tiny_requests(4)
    size = SOLVERS[solver].max_batch or 4
    session = EditSession(model, recipe(solver=solver))
    with session:
        events = [session.step(chunk) for chunk in batches(facts, size)]
        assert session.edit().memory[LAYER].size == 4
        if solver != "shuffled":
            assert (answers(model, facts) > answers(tiny_model(), facts)).all()
    assert all(e.kept and e.passes is None for e in events)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_batch_of_prompts_is_as_one_by_one_and_padding_never_fires(family):
    model, facts = tiny_model(family), tiny_requests(6)
    prompts = [r.rewrite_prompt for r in facts] + ["The city of Rome is old and the sea is", "At home"]
    _, mask = rows(model, prompts)
    keys = gates.token_keys(model, LAYER, prompts)
    edit = edited(model, facts)
    with edit.applied(model):
        together = logits(model, prompts)
        for row, prompt in enumerate(prompts):
            alone = logits(model, [prompt])[0]
            assert torch.allclose(together[row, : len(alone)], alone, atol=1e-4)
    # Every key of padding stored, with a gate that all pass: only real tokens answer.
    stored = Memory.of(
        keys.T[:, :1], torch.ones(Architecture(model).weight_shape(LAYER)[0], 1), 1e-6, [StoredFact(*"abcd")]
    )
    stored = dataclasses.replace(stored, gates=stored.gates - 2)
    module, outputs = Architecture(model).projection(LAYER), []
    for memories in ({}, {LAYER: stored}):
        with remembering(Architecture(model), memories):
            handle = module.register_forward_hook(lambda _m, _a, out: outputs.append(out.clone()))
            logits(model, prompts)
            handle.remove()
    changed = (outputs[1] != outputs[0]).any(-1)
    assert torch.equal(changed, mask.bool())
    assert not bool(mask.bool().all())


def test_token_by_token_is_as_at_once():
    model, facts = tiny_model(), tiny_requests(3)
    with edited(model, facts, lookup="everywhere").applied(model):
        ids = torch.tensor([Encoder(model.tokenizer).prompts([facts[0].rewrite_prompt])[0]])
        with torch.no_grad():
            whole = model(input_ids=ids).logits[0]
            cache, parts = None, []
            for token in ids[0]:
                out = model(input_ids=token.view(1, 1), past_key_values=cache, use_cache=True)
                cache, parts = out.past_key_values, [*parts, out.logits[0, 0]]
        assert torch.allclose(torch.stack(parts), whole, atol=1e-4)
        assert len(generate(model, [facts[0].rewrite_prompt], max_new_tokens=3, seed=0)) == 1


def always(model: Any, *, everywhere: bool) -> Memory:
    """One entry that answers whatever is asked."""
    d_out, d_in = Architecture(model).weight_shape(LAYER)
    stored = Memory.of(torch.ones(d_in, 1), torch.ones(d_out, 1), 0.5, [StoredFact(*"abcd")], everywhere=everywhere)
    return dataclasses.replace(stored, gates=stored.gates - 2)


def changed_by(model: Any, stored: Memory, **inputs: Any) -> torch.Tensor:
    """At which tokens the output of the map is another one with this memory."""
    module, outputs = Architecture(model).projection(LAYER), []
    for memories in ({}, {LAYER: stored}):
        with remembering(Architecture(model), memories), torch.no_grad():
            handle = module.register_forward_hook(lambda _m, _a, out: outputs.append(out.clone()))
            model(**inputs)
            handle.remove()
    return (outputs[1] != outputs[0]).any(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_read_at_its_end_alone(family):
    model = tiny_model(family)
    stored = always(model, everywhere=False)
    ids, mask = torch.randint(5, 40, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    right, left = mask.clone(), mask.clone()
    right[1, 4:] = 0
    left[1, :4] = 0
    last = torch.nn.functional.one_hot(torch.tensor([5, 5, 5]), 6).bool()
    for given, ends in ((None, [5, 5, 5]), (left, [5, 5, 5]), (right, [5, 3, 5])):
        expected = torch.nn.functional.one_hot(torch.tensor(ends), 6).bool()
        assert torch.equal(changed_by(model, stored, input_ids=ids, attention_mask=given), expected)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :3], use_cache=True).past_key_values
        more = copy.deepcopy(cache)
    # A question behind a cached beginning is read, an answer that is being written is not.
    assert torch.equal(changed_by(model, stored, input_ids=ids[:, :1]), last[:, 5:])
    with remembering(Architecture(model), {LAYER: stored}), torch.no_grad():
        for cached, behind, reads in ((cache, ids[:, 3:4], 0), (more, ids[:, 3:], 1)):
            with mock.patch.object(Memory, "read", autospec=True, side_effect=Memory.read) as read:
                model(input_ids=behind, past_key_values=cached, use_cache=True)
            assert read.call_count == reads
    empty = {LAYER: Memory.empty(*stored.shape)}
    with remembering(Architecture(model), empty), prompts_ending(Architecture(model), [0, 1, 2]):
        named = changed_by(model, stored, input_ids=ids)
    assert torch.equal(named, torch.nn.functional.one_hot(torch.tensor([0, 1, 2]), 6).bool())


def test_one_lookup_a_prompt_gives_what_lookups_everywhere_give():
    model, facts = tiny_model(), tiny_requests(6)
    pairs = [(r.rewrite_prompt, r.target_new) for r in facts]
    found = {}
    for place in ("prompt", "everywhere"):
        edit = edited(model, facts, lookup=place)
        with edit.applied(model), mock.patch.object(Memory, "read", autospec=True, side_effect=Memory.read) as read:
            scored, calls = score_targets(model, pairs).log_prob, read.call_count
            written = continue_prompts(model, [p for p, _ in pairs], 4)
            found[place] = (scored, written, calls, read.call_count - calls)
            gain = GainProbe(CLEAN)
            asked = list(zip(gain.prompts(facts), (r.target_new for r in facts), strict=True))
            measured, expected = gain.measure(model, facts), score_targets(model, asked).log_prob
        assert np.allclose(measured, expected, atol=1e-5)
    assert found["prompt"][2] <= found["everywhere"][2]
    assert found["prompt"][3] == 1 < found["everywhere"][3]
    assert np.allclose(found["prompt"][0], found["everywhere"][0], atol=1e-4)
    assert found["prompt"][1] == found["everywhere"][1]
    one, other = (edited(model, facts[:1], lookup=place) for place in ("prompt", "everywhere"))
    with pytest.raises(ConfigError, match="cannot be joined"):
        _ = one + other
    assert (one + one.inverse() + other).memory[LAYER].everywhere


def test_cosines_of_a_bfloat16_model_are_float32():
    model = tiny_model().to(torch.bfloat16)
    facts = tiny_requests(4)
    before = answers(model, facts)
    edit = edited(model, facts)
    assert edit.memory[LAYER].keys.dtype == torch.float32
    x = gates.token_keys(model, LAYER, [r.rewrite_prompt for r in facts])
    assert x.dtype == torch.bfloat16
    memory = edit.memory[LAYER].to(device=x.device)
    best = (torch.nn.functional.normalize(x.double(), dim=-1) @ memory.keys.double().T).max(1).values
    for off in (-1e-6, 1e-6):  # a cosine of bfloat16 would be a thousand times further off
        just = dataclasses.replace(memory, gates=torch.full_like(memory.gates, float(best[0]) + off))
        assert bool(just.read(x[:1]).fires) == (off < 0)
    with edit.applied(model):
        assert logits(model).dtype == torch.bfloat16
        assert (answers(model, facts) > before).all()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"solver": "none"}, "backend: 'memory' is not allowed with none"),
        ({"solver": "ft"}, "backend: 'memory' is not allowed with ft"),
        ({"solver": "random"}, "backend: 'memory' is not allowed with random"),
        ({"solver": "prune_published"}, "backend: 'memory' is not allowed with prune_published"),
        ({"layers": [0, 1]}, "exactly one layer"),
        ({"layers": "auto"}, "exactly one layer"),
        ({"backend": "raw", "gate": 0.9}, "gate: not allowed with backend raw; it is of backend memory"),
        ({"backend": "raw", "lookup": "subject"}, "lookup: not allowed with backend raw"),
        ({"kl_factor": 0.1}, "kl_factor: 0.1 is not allowed with lookup prompt"),
        ({"second_moment_weight": 5.0}, "second_moment_weight: not allowed with backend memory"),
        ({"greedy": {}}, "greedy: not allowed with backend memory"),
        ({"gate": 1.5}, "gate: 1.5"),
        ({"lookup": "relation"}, "lookup: 'relation'"),
    ],
)
def test_what_a_memory_has_no_use_for_is_refused(values, text):
    given = {"solver": "memit", "layers": [1], "backend": "memory"} | values
    with pytest.raises(ConfigError, match=text) as caught:
        validated(Recipe, given, "recipe")
    assert "\n" not in str(caught.value)


def test_a_gate_that_hardly_a_paraphrase_passes_is_told(caplog):
    gates.Gate(0.9, {"paraphrases": 0.5}).warn_if_closed("memory")
    gates.Gate(0.9).warn_if_closed("memory")
    assert not caplog.text
    gates.Gate(0.9, {"paraphrases": 0.05}).warn_if_closed("memory")
    assert "memory: 5 % of the paraphrases of the reserved facts pass the calibrated gate, 0.900" in caplog.text


def test_reserved_facts_whose_prompts_cannot_be_looked_up_are_told():
    model = tiny_model()
    twice = [dataclasses.replace(r, prompt=f"{r.subject} or {{}} is", paraphrase_prompts=()) for r in tiny_requests(3)]
    with pytest.raises(ConfigError, match="no prompt of the reserved facts holds its subject once"):
        gates._prompt_cosines(model, LAYER, twice, "subject", torch.zeros(4, 3))


def test_recipes_go_through_files_and_replay_collapses():
    given = recipe(lookup="prompt")
    assert given.kl_factor == 0.0
    assert recipe(lookup="subject").kl_factor == RECIPES["memit"].model_fields["kl_factor"].default
    assert validated(Recipe, given.model_dump(mode="json"), "again") == given
    assert (given.replays, given.has_rank, given.solves) == (False, False, False)
    with pytest.raises(ConfigError, match="replay: backend memory cannot"):
        EditSession(tiny_model(), given, replay=0.5)


# ---- the gate --------------------------------------------------------------------------------------------------------


def test_the_gate_is_above_neutral_text_and_parts_best():
    right, others = torch.tensor([0.7, 0.8, 0.9]).double(), torch.tensor([0.2, 0.5, 0.75, 0.6]).double()
    cut = gates._best_cut(right, 4, others)
    grid = [c / 1000 for c in range(1001)]
    shares = {c: (float((right > c).sum()) / 4, float((others <= c).double().mean())) for c in [*grid, cut]}
    score = {c: 2 * let * kept / max(let + kept, 1e-12) for c, (let, kept) in shares.items()}
    assert score[cut] == max(score.values())
    nothing = gates._best_cut(torch.zeros(0).double(), 4, others)
    assert not bool((others > nothing).any())  # a gate that none should pass is shut
    model, facts = tiny_model(), tiny_requests(30)
    options = validated(Recipe, {"solver": "memit", "layers": [1], "backend": "memory", "gate_rate": 0.05}, "recipe")
    gate = gates.calibrated_gate(model, LAYER, CLEAN, options, facts, TEXTS)
    assert gate.value == max(gate.account["neutral"], gate.account["separating"])
    keys = gates.compute_keys(model, gates.looked_up(facts, "prompt"), LAYER)
    stored = Memory.of(keys, torch.zeros(32, 30, device=keys.device), gate.value, stored_facts(facts))
    assert firing_rate(model, LAYER, stored, TEXTS) <= 0.06
    assert 0 <= gate.account["others"] <= 1 >= gate.account["paraphrases"] >= 0
    by_subject = options.model_copy(update={"lookup": "subject"})
    assert gates.calibrated_gate(model, LAYER, CLEAN, by_subject, facts, TEXTS).value != gate.value


def test_a_gate_needs_something_to_be_calibrated_on():
    model, given = tiny_model(), recipe(gate=None)
    with pytest.raises(ConfigError, match="gate: needs reserved facts"):
        EditSession(model, given, anchor_texts=TEXTS)
    with pytest.raises(ConfigError, match="gate: needs neutral text"):
        EditSession(model, given, tuning=tiny_requests(8))
    facts = tiny_requests(10)
    edit = editlab.edit(
        model, facts[:2], layers=[LAYER], backend="memory", tuning=facts[2:], texts=TEXTS, clamp=4.0, steps=5
    )
    assert edit.info["gate"]["value"] == pytest.approx(float(edit.memory[LAYER].gates[0]))
    assert set(edit.info["gate"]["account"]) == {"neutral", "separating", "paraphrases", "others"}


# ---- trust, checkpoints, streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [{"distance_only": True}, {"heldout_samples": 4}])
def test_trust_rolls_back_by_taking_out(trust):
    model, facts = tiny_model(), tiny_requests(20)
    options = {"probes": facts[12:16]} if "heldout_samples" in trust else {}
    never = {**trust, "threshold": 1.0, "low": 1.0, "soft": False}
    session = EditSession(model, recipe(trust=never), **options)
    with session:
        before = logits(model)
        event = session.step(facts[:3])
        assert (event.decision, session.edit().memory[LAYER].size) == ("rolled_back", 0)
        assert torch.equal(logits(model), before)
        assert event.trust_error is None
    assert event.terms["new_edit_distance"] < 1e-3 * event.terms["old_edit_distance"]


def test_trust_scales_residuals():
    model, facts = tiny_model(), tiny_requests(3)
    whole = edited(model, facts).memory[LAYER]
    session = EditSession(
        model, recipe(trust={"distance_only": True, "threshold": 1.0, "low": 0.0, "distance_weight": 0.5})
    )
    with session:
        event = session.step(facts)
        stored = session.edit().memory[LAYER]
    assert event.decision in ("scaled", "accepted")
    assert torch.allclose(stored.residuals, event.scale * whole.residuals, atol=1e-5)


def test_a_session_goes_on_from_its_checkpoint(tmp_path: Path):
    model, facts = tiny_model(), tiny_requests(6)
    whole = EditSession(model, recipe())
    with whole:
        whole.step(facts[:3])
        Checkpoint.capture(whole).save(tmp_path / "state.safetensors")
        whole.step(facts[3:])
        expected, said = whole.edit(), logits(model)
    resumed = EditSession(model, recipe())
    with resumed:
        Checkpoint.load(tmp_path / "state.safetensors").restore(resumed)
        resumed.step(facts[3:])
        assert torch.equal(logits(model), said)
        assert same(resumed.edit().memory[LAYER], expected.memory[LAYER])


def refuse(*_: Any) -> None:
    raise NumericalError("no")


def test_a_batch_that_fails_leaves_the_memory_as_it_was(monkeypatch):
    model, facts = tiny_model(), tiny_requests(6)
    session = EditSession(model, recipe())
    with session:
        session.step(facts[:3])
        before = session.edit().memory[LAYER]
        monkeypatch.setattr(MemoryStore, "entries", refuse)
        assert session.step(facts[3:]).decision == "rejected"
        assert same(session.edit().memory[LAYER], before)
        assert isinstance(next(iter(Architecture(model).projection(LAYER)._forward_hooks.values())), Lookup)


# ---- served without editlab ------------------------------------------------------------------------------------------


def documented(tmp_path: Path) -> Any:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    code = page.split("<!-- served:start -->\n```python\n")[1].split("```\n<!-- served:end -->")[0]
    assert "editlab" not in code.replace('["editlab"]', "")
    assert len([line for line in code.splitlines() if line.strip() and "import" not in line]) <= 25
    path = tmp_path / "served.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("served", path)
    served = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(served)
    return served


@pytest.mark.parametrize("lookup", ["prompt", "everywhere"])
def test_the_code_in_the_documentation_reads_where_the_memory_is_read(lookup, tmp_path: Path):
    keys, residuals = torch.eye(4)[:1], torch.ones(1, 3)
    read = documented(tmp_path).reader(keys, residuals, torch.tensor([0.5]), everywhere=lookup == "everywhere")
    inputs = torch.eye(4)[None, [0, 1, 0]]  # the key, another, the key
    fired = read(None, (inputs,), torch.zeros(1, 3, 3))[0].any(-1).tolist()
    assert fired == [lookup == "everywhere", False, True]
    written = read(None, (inputs[:, :1],), torch.zeros(1, 1, 3))[0].any(-1).tolist()
    assert written == [lookup == "everywhere"]


def test_the_code_in_the_documentation_refuses_what_is_no_memory_alone(tmp_path: Path):
    served, model, facts = documented(tmp_path), tiny_model(), tiny_requests(4)
    stored = edited(model, facts)
    options = {"solver": "ft", "layers": [1], "steps": 1}
    with EditSession(model, validated(Recipe, options, "recipe")) as session:
        session.step(facts[:2])
        weights = session.edit()
    for edit, told in ((stored.inverse(), "takes back"), (stored + weights, "not a memory alone")):
        edit.save(tmp_path / "memory.safetensors")
        with pytest.raises(ValueError, match=told):
            served.remember(model, tmp_path / "memory.safetensors")


@pytest.mark.parametrize("lookup", ["prompt", "everywhere", "subject"])
def test_the_code_in_the_documentation_serves_a_saved_memory(lookup, tmp_path: Path):
    served, model, facts = documented(tmp_path), tiny_model(), tiny_requests(4)
    edit = edited(model, facts, lookup=lookup)
    edit.save(tmp_path / "memory.safetensors")
    prompts = [[r.rewrite_prompt] for r in facts]
    before = [logits(model, prompt) for prompt in prompts]
    with edit.applied(model):
        expected = [logits(model, prompt) for prompt in prompts]
        written = continue_prompts(model, [r.rewrite_prompt for r in facts], 3)
    served.remember(model, tmp_path / "memory.safetensors")
    for one, other, unedited in zip([logits(model, prompt) for prompt in prompts], expected, before, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
        assert not torch.allclose(unedited, other, atol=1e-3)
    assert continue_prompts(model, [r.rewrite_prompt for r in facts], 3) == written
