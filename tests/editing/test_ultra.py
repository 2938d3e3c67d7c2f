"""UltraEdit against its formulas, as published and with passes, second moment and history; and its invariants."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from tiny import tiny_model, tiny_requests

import editlab
from editlab.algebra import normaliser
from editlab.algebra.normaliser import EPSILON
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.editing import ultra
from editlab.editing.session import EditSession
from editlab.editing.ultra import answer_rows
from editlab.errors import ConfigError, NumericalError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, replace_outputs

FACTS = tiny_requests(12)
LAYERS = [1, 2]
PUBLISHED = {"passes": 1, "second_moment_weight": 0.0, "remember_keys": False, "mini_batch": 3, "lr": 1e-2}
MOMENTS = {k: reference.moment(64, seed=k) for k in LAYERS}


def recipe(**values: Any) -> Recipe:
    return validated(Recipe, {"solver": "ultra", "layers": LAYERS, "lr": 1e-2, **values}, "recipe")


def session(model: Any, **values: Any) -> EditSession:
    return EditSession(model, recipe(**values), statistics=MOMENTS)


def rows_by_hand(model: Any, facts: Any, mini_batch: int | None) -> dict[int, tuple[torch.Tensor, ...]]:
    """Keys, output gradients and losses, one fact at a time, straight from the definition."""
    architecture, found = Architecture(model), {k: ([], [], []) for k in LAYERS}
    completions = [reference.completion(model.tokenizer, r.rewrite_prompt, r.target_new) for r in facts]
    for i, (request, target) in enumerate(zip(facts, completions, strict=True)):
        start = 0 if mini_batch is None else i // mini_batch * mini_batch
        shared = len(target) if mini_batch is None else sum(map(len, completions[start : start + mini_batch]))
        prompt = model.tokenizer(request.rewrite_prompt).input_ids
        outputs: dict[int, torch.Tensor] = {}

        def keep(layer: int, outputs: dict[int, torch.Tensor] = outputs) -> Any:
            def hook(output: torch.Tensor) -> torch.Tensor:
                outputs[layer] = output if output.requires_grad else output.detach().requires_grad_(True)
                return outputs[layer]

            return hook

        maps = {k: architecture.projection(k) for k in LAYERS}
        with capture(inputs=maps) as keys, replace_outputs({m: keep(k) for k, m in maps.items()}):
            logits = model(input_ids=torch.tensor([prompt + target[:-1]])).logits[0]
        places = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(target))
        losses = -logits[places].log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
        gradients = torch.autograd.grad(losses.sum() / shared, [outputs[k] for k in LAYERS])
        for layer, gradient in zip(LAYERS, gradients, strict=True):
            found[layer][0].append(keys[layer][0, places].detach())
            found[layer][1].append(gradient[0, places])
            found[layer][2].append(losses.detach())
    return {k: tuple(map(torch.cat, parts)) for k, parts in found.items()}


def by_hand(model: Any, batches: Any, options: Recipe) -> dict[int, torch.Tensor]:
    """The change of every map; d x d systems, a normaliser that looks at all rows so far anew. The model is given back."""
    architecture = Architecture(model)
    originals = {k: architecture.weight(k).clone() for k in LAYERS}
    seen: dict[int, list[Any]] = {k: [] for k in LAYERS}
    history = {k: torch.zeros(64, 64).double() for k in LAYERS}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for facts in batches:
        for _ in range(options.passes):
            rows = rows_by_hand(model, facts, options.mini_batch)
            for layer, (h, v, losses) in rows.items():
                seen[layer].append((h, v))
                every = [torch.cat(parts) for parts in zip(*seen[layer], strict=True)]
                unit, step = (
                    (x - z.mean(0)) / ((z.var(0, unbiased=False) * len(z) / (len(z) - 1 + EPSILON)).sqrt() + EPSILON)
                    for x, z in zip((h, v), every, strict=True)
                )
                target = -options.lr * unit.square().sum(1, keepdim=True) * step
                target *= (losses >= options.known_loss)[:, None]
                a = options.second_moment_weight * MOMENTS[layer] + history[layer] + options.ridge * torch.eye(64)
                change = torch.linalg.solve(h.T @ h + a, h.T @ target)
                architecture.weight(layer).add_(change.T)
        if options.remember_keys:
            for layer, (h, *_) in rows.items():
                history[layer] += h.T @ h
    found = {k: architecture.weight(k) - w for k, w in originals.items()}
    for layer, weight in originals.items():
        architecture.weight(layer).copy_(weight)
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "values",
    [
        PUBLISHED,
        {"passes": 2, "second_moment_weight": 5.0, "ridge": 0.5, "known_loss": 5.0},
        {"second_moment_weight": 0.0, "passes": 1},
    ],
    ids=["published", "with everything", "history alone"],
)
def test_it_is_the_formulas(family, values):
    model, batches = tiny_model(family).double(), [FACTS[:5], FACTS[5:9], FACTS[9:]]
    expected = by_hand(model, batches, recipe(**values))
    with session(model, **values) as run:
        events = [run.step(batch) for batch in batches]
        found = run.edit()
    for layer in LAYERS:
        assert float((found.delta(layer) - expected[layer]).norm() / expected[layer].norm()) < 1e-10
    assert all(e.kept and e.passes == recipe(**values).passes and e.loss > 0 for e in events)


def test_rows_are_those_of_the_definition_and_nothing_keeps_a_gradient():
    model = tiny_model("llama").double()
    for mini_batch in (None, 4):
        rows = answer_rows(model, FACTS, LAYERS, mini_batch)
        for layer, (keys, gradients, losses) in rows_by_hand(model, FACTS, mini_batch).items():
            torch.testing.assert_close(rows.keys[layer], keys, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(rows.gradients[layer], gradients, rtol=1e-7, atol=1e-12)
            torch.testing.assert_close(rows.losses, losses, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in model.parameters())


def test_the_order_of_facts_does_not_matter_and_the_rank_is_that_of_the_rows():
    model, rows = tiny_model().double(), answer_rows(tiny_model().double(), FACTS[:6], LAYERS, None)
    one, other = (
        editlab.edit(model, facts, method="ultra", layers=LAYERS, lr=1e-2, passes=2, statistics=MOMENTS)
        for facts in (FACTS[:6], FACTS[5::-1])
    )
    single = editlab.edit(model, FACTS[:6], method="ultra", layers=LAYERS, passes=1, lr=1e-2)
    for layer in LAYERS:
        assert float((one.delta(layer) - other.delta(layer)).norm() / one.delta(layer).norm()) < 1e-10
        assert torch.linalg.matrix_rank(single.delta(layer)) <= len(rows.fact)
    double = editlab.edit(model, FACTS[:6], method="ultra", layers=LAYERS, passes=1, lr=2e-2)
    torch.testing.assert_close(double.delta(1), 2 * single.delta(1))  # linear in what is asked


def test_facts_are_learned():
    model = tiny_model()
    with session(model, lr=3e-2, passes=5, second_moment_weight=1.0) as run:
        before = answer_rows(model, FACTS[:6], LAYERS, None).loss
        event = run.step(FACTS[:6])
        after = answer_rows(model, FACTS[:6], LAYERS, None).loss
    assert after < before - 0.5
    assert event.passes == 5


def test_earlier_keys_are_moved_less_with_history():
    model, moved = tiny_model().double(), {}
    for kept in (False, True):
        with session(model, remember_keys=kept, second_moment_weight=1.0, passes=1) as run:
            run.step(FACTS[:6])
            keys, weight = answer_rows(model, FACTS[:6], LAYERS, None).keys[1], run.weights[1].clone()
            run.step(FACTS[6:])
            moved[kept] = float((keys @ (run.weights[1] - weight).T).norm())
        assert bool(run.proposer.history) is kept
    assert moved[True] < 0.7 * moved[False]


def test_a_batch_that_fails_leaves_the_normaliser_as_it_was(monkeypatch):
    model = tiny_model()
    with session(model) as run:
        run.step(FACTS[:3])
        before, weight = dict(run.proposer.normalisers), run.weights[1].clone()

        def refuse(*_: Any) -> None:
            raise NumericalError("no")

        monkeypatch.setattr(ultra, "solve", refuse)
        assert run.step(FACTS[3:6]).decision == "rejected"
        assert run.proposer.normalisers == before
        assert torch.equal(run.weights[1], weight)


def test_one_row_moves_nothing_and_poisons_nothing(caplog):
    model = tiny_model()
    short = next(r for r in FACTS if len(reference.completion(model.tokenizer, r.rewrite_prompt, r.target_new)) == 1)
    with session(model, passes=1) as run:
        run.step([short])
        assert run.edit().norm() == 0.0
        assert "this batch changes nothing" in caplog.text
        run.step(FACTS[3:6])
        assert 0 < run.edit().norm() < float("inf")


def test_whitening_is_used_once_there_are_rows_enough():
    found = {}
    for whiten in (False, True):
        with session(tiny_model(), whiten=whiten, passes=1) as run:
            run.step(FACTS[:4])
            few = run.edit().delta(1)
            for start in range(0, 60, 12):
                run.step(tiny_requests(72)[12 + start : 24 + start])
            found[whiten] = (few, run.edit().delta(1))
    torch.testing.assert_close(found[True][0], found[False][0])
    assert not torch.allclose(found[True][1], found[False][1], rtol=0.01)


def test_what_it_has_no_use_for_is_refused():
    cases = [({"clamp": 0.5}, "clamp"), ({"trust": {}}, "trust: not allowed with ultra"), ({"ridge": 0}, "ridge: 0")]
    for values, text in [*cases, ({"backend": "memory", "gate": 0.5}, "needs a solver of them")]:
        with pytest.raises(ConfigError, match=text):
            recipe(**values)


@pytest.mark.parametrize("passes", [1, 3])
def test_sphere_restrains_it_too(passes):
    found = {}
    for sphere in (0.0, 1.0):
        with session(tiny_model().double(), passes=passes, sphere=sphere) as run:
            assert run.step(FACTS[:4]).kept
            found[sphere] = run.edit().delta(1), run.originals[1]
    (whole, weight), (restrained, _) = found[0.0], found[1.0]
    rows = torch.nn.functional.normalize(weight.double(), dim=1)
    first = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    assert float((restrained @ first).norm()) < 1e-6 * float((whole @ first).norm())


def test_the_event_of_several_passes_tells_of_all_of_them():
    with session(tiny_model().double(), passes=3) as run:
        event = run.step(FACTS[:4])
        for layer in LAYERS:
            assert event.layers[str(layer)].update_norm == pytest.approx(
                float(run.edit().delta(layer).norm()), rel=1e-9
            )
        again = run.step(FACTS[4:8])
        assert event.known == again.known == 0.0


def test_facts_that_are_answered_already_are_counted(monkeypatch):
    monkeypatch.setattr(ultra, "KNOWN", 1e9)
    with session(tiny_model()) as run:
        assert run.step(FACTS[:4]).known == 1.0


def test_tokens_that_are_known_already_can_be_left_as_they_are():
    """A normalised gradient of a confident answer is as large as any other's."""
    model, sizes = tiny_model().double(), {}
    losses = answer_rows(model, FACTS[:6], LAYERS, None).losses
    for bound in (0.0, float(losses.median()), 1e3):
        with session(model, passes=1, known_loss=bound) as run:
            run.step(FACTS[:6])
            sizes[bound] = float(run.edit().delta(LAYERS[0]).norm())
    none, some, all_of_them = sizes.values()
    assert none > 0
    assert some not in (0.0, none)
    assert all_of_them == 0.0


def test_replayed_facts_are_rows_of_the_system_and_of_nothing_else():
    found = {}
    for name, replay, weight in (("alone", 0.0, 1.0), ("none", 1.0, 0.0), ("once", 1.0, 1.0), ("more", 1.0, 8.0)):
        chosen = recipe(passes=1, replay_weight=weight)
        with EditSession(tiny_model().double(), chosen, statistics=MOMENTS, replay=replay) as run:
            run.step(FACTS[:4])
            replayed = run.step(FACTS[4:8]).replayed
            found[name] = run.edit().delta(LAYERS[0]), run.proposer.normalisers, run.proposer.history
        assert replayed == (4 if replay else 0)
    change, normalisers, history = found["alone"]
    for name, (other, theirs, earlier) in found.items():
        assert theirs[LAYERS[0]].count == normalisers[LAYERS[0]].count
        assert torch.allclose(theirs[LAYERS[0]].keys.mean, normalisers[LAYERS[0]].keys.mean, atol=1e-12)
        assert earlier[LAYERS[0]].tensors().keys() == history[LAYERS[0]].tensors().keys()
        for part, tensor in history[LAYERS[0]].tensors().items():
            assert torch.allclose(earlier[LAYERS[0]].tensors()[part], tensor, atol=1e-9)
        assert torch.allclose(other, change, atol=1e-9) == (name in ("alone", "none"))
    assert not torch.allclose(found["once"][0], found["more"][0], atol=1e-6)


def test_a_batch_that_fails_with_replayed_facts_is_tried_without(monkeypatch):
    asked = []

    def failing(model, requests, layers, mini_batch, new=None):
        asked.append(len(requests))
        if len(requests) > new:
            raise NumericalError("NaN")
        return answer_rows(model, requests, layers, mini_batch, new)

    monkeypatch.setattr(ultra, "answer_rows", failing)
    with EditSession(tiny_model(), recipe(passes=1), statistics=MOMENTS, replay=1.0) as run:
        run.step(FACTS[:4])
        event = run.step(FACTS[4:8])
    assert asked == [4, 8, 4]
    assert (event.decision, event.replayed, event.replay_dropped) == ("accepted", 0, "NaN")


@pytest.mark.parametrize(("facts", "batch"), [(1, None), (3, 2), (2, 1)])
def test_a_batch_of_one_fact_is_refused(facts, batch):
    """The deviation of its rows would be that of one answer's tokens, or none."""
    with pytest.raises(ConfigError, match="ultra needs batches of 2 or more"):
        editlab.edit(tiny_model(), FACTS[:facts], method="ultra", layers=LAYERS, passes=1, batch=batch)


@pytest.mark.parametrize("least", [1e-6, 1e6])
def test_whitening_of_gradients_too_small_for_it_is_told(least, caplog, monkeypatch):
    """Most directions are above the least eigenvalue that is divided by, or none is."""
    monkeypatch.setattr(normaliser, "LEAST_EIGENVALUE", least)
    facts = tiny_requests(60)
    with session(tiny_model(), passes=1, whiten=True) as run:
        event = run.step(facts)
    shares = [event.layers[str(k)].clamped for k in LAYERS]
    assert all(0 <= share <= 1 for share in shares)
    assert (max(shares) > 0.5) == (least > 1)
    assert ("scaled, not whitened" in caplog.text) == (least > 1)
