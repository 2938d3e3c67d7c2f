"""Fine-tuning in epochs against its formulas, alone and off steep directions; its invariants in streams."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from tiny import tiny_model, tiny_requests

import editlab
from editlab.algebra.curvature import Curvature
from editlab.algebra.second_moment import SecondMoment
from editlab.config.base import validated
from editlab.config.finetuning import FineTuningInEpochs
from editlab.config.recipe import Recipe
from editlab.editing import epochs
from editlab.editing.checkpoint import Checkpoint
from editlab.editing.epochs import finetune_in_epochs
from editlab.editing.session import EditSession
from editlab.errors import ConfigError, NumericalError
from editlab.evaluation.scoring import score_requests
from editlab.moments.stored_curvature import save_curvature
from editlab.networks.architectures import Architecture
from editlab.randomness import python_rng

FACTS = tiny_requests(16)
LAYERS = [1, 2]
CURVATURE = {
    k: Curvature(SecondMoment(reference.moment(64, seed=k), 500), SecondMoment(reference.moment(32, seed=k + 7), 500))
    for k in LAYERS
}


def recipe(**values: Any) -> Recipe:
    small = {"solver": "ft_epochs", "layers": LAYERS, "lr": 1e-2, "epochs": 3, "mini_batch": 3}
    return validated(Recipe, {**small, **values}, "recipe")


def session(model: Any, replay: float = 0.0, **values: Any) -> EditSession:
    return EditSession(model, recipe(**values), statistics=CURVATURE, replay=replay)


def loss_of(model: Any, facts: Any, *, stop: bool = True) -> torch.Tensor:
    """Mean over facts of the mean cross-entropy of their tokens, the whole model run on one fact at a time."""
    losses = []
    for request in facts:
        prompt = model.tokenizer(request.rewrite_prompt).input_ids
        target = reference.completion(model.tokenizer, request.rewrite_prompt, request.target_new)
        target = target + [model.tokenizer.eos_token_id] * stop
        logits = model(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
        losses.append(-logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)].mean())
    return torch.stack(losses).mean()


def kept_part(step: torch.Tensor, curvature: Curvature, energy: float) -> torch.Tensor:
    """``Ub ((Ub^T G Ua) * M^T) Ua^T``, M by sorting all products."""
    (low, basis_a), (high, basis_b) = (torch.linalg.eigh(m.matrix) for m in (curvature.inputs, curvature.gradients))
    products = high[:, None] * low[None, :]
    ranked = products.flatten().sort(descending=True)
    before = ranked.values.cumsum(0) - ranked.values
    mask = torch.ones_like(products.flatten())
    mask[ranked.indices[before < energy * products.sum()]] = 0.0
    return basis_b @ ((basis_b.T @ step @ basis_a) * mask.reshape(products.shape)) @ basis_a.T


def by_hand(model: Any, facts: Any, options: FineTuningInEpochs, curvature: Any, seed: int) -> dict[int, torch.Tensor]:
    """The change of every map by Adam as its paper writes it, projected before and after; the model is given back."""
    architecture = Architecture(model)
    originals = {k: architecture.weight(k).clone() for k in LAYERS}
    state = {k: [torch.zeros_like(w), torch.zeros_like(w)] for k, w in originals.items()}
    time, mean = 0, math.inf
    for epoch in range(options.epochs):
        order = list(range(len(facts)))
        python_rng("epoch", seed, epoch).shuffle(order)
        values = []
        for start in range(0, len(order), options.mini_batch):
            chosen = order[start : start + options.mini_batch]
            loss = loss_of(model, [facts[i] for i in chosen], stop=options.stop_token)
            values += [float(loss.detach())] * len(chosen)
            if epoch and values[-1] < options.stop_loss:
                continue
            parameters = [architecture.projection(k).weight for k in LAYERS]
            gradients, time = torch.autograd.grad(loss, parameters), time + 1
            for k, gradient in zip(LAYERS, gradients, strict=True):
                gradient = gradient.T if architecture.is_transposed(k) else gradient
                project = lambda x, k=k: kept_part(x, curvature[k], options.energy) if curvature else x  # noqa: E731
                gradient, (first, second) = project(gradient), state[k]
                first.mul_(0.9).add_(0.1 * gradient)
                second.mul_(0.999).add_(0.001 * gradient**2)
                step = first / (1 - 0.9**time) / ((second / (1 - 0.999**time)).sqrt() + 1e-8)
                with torch.no_grad():
                    architecture.weight(k).sub_(project(options.lr * step))
        mean = sum(values) / len(values)
        if mean < options.stop_loss:
            break
    found = {k: architecture.weight(k) - w for k, w in originals.items()}
    for k, w in originals.items():
        architecture.weight(k).copy_(w)
    return found


@pytest.mark.parametrize(
    ("family", "energy"), [("gpt2", 0.0), ("gpt2", 0.95), ("gptj", 0.8), ("llama", 0.8), ("qwen2", 0.5)]
)
def test_it_is_its_formulas(family, energy):
    model, options = tiny_model(family).double(), recipe(energy=energy)
    curvature = {k: c.to(Architecture(model).device) for k, c in CURVATURE.items()} if energy else {}
    steep = {k: c.steep(energy) for k, c in curvature.items()}
    found = finetune_in_epochs(model, FACTS[:7], LAYERS, options, None, steep, seed=5)
    expected = by_hand(model, FACTS[:7], options, curvature, 5)
    assert found.epochs == 3
    rounding = 1e-6 if family == "gptj" else 1e-9  # its attention computes in float32 whatever the weights are
    for layer, delta in found.deltas.items():
        assert float(delta.norm()) > 0.01
        torch.testing.assert_close(delta, expected[layer], rtol=1e-7, atol=rounding)


def test_it_learns_stops_and_skips(monkeypatch):
    model, made = tiny_model("gpt2").double(), []
    original = epochs._Maps.step
    monkeypatch.setattr(
        epochs._Maps, "step", lambda self, loss: made.append(float(loss.detach())) or original(self, loss)
    )
    options = recipe(energy=0.0, epochs=40, lr=5e-3, stop_loss=2.8)
    found = finetune_in_epochs(model, FACTS[:6], LAYERS, options, seed=1)
    assert found.loss < 2.8
    assert found.epochs < 40
    expected = by_hand(model, FACTS[:6], options, None, 1)
    torch.testing.assert_close(found.deltas[2], expected[2], rtol=1e-7, atol=1e-9)
    assert min(made) >= 2.8
    assert len(made) < 2 * found.epochs  # some were left out
    made.clear()
    easy = finetune_in_epochs(model, FACTS[:6], LAYERS, recipe(energy=0.0, epochs=4, stop_loss=1e9), seed=1)
    assert (easy.epochs, len(made)) == (1, 2)  # no mini-batch of the first epoch is left out


@pytest.mark.parametrize("stop", [True, False])
def test_the_answer_is_said_and_the_text_ends(stop):
    model, fact = tiny_model("gpt2"), FACTS[0]
    edit = editlab.edit(model, fact, method="ft_epochs", layers=LAYERS, energy=0, epochs=60, lr=1e-2, stop_token=stop)
    with edit.applied(model):
        assert float(score_requests(model, [fact], ("rewrite",))["accuracy"].mean()) == 1.0
        ids = model.tokenizer(f"{fact.rewrite_prompt} {fact.target_new}").input_ids
        said = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        assert (said == model.tokenizer.eos_token_id) == stop


def test_without_energy_it_is_plain_adam_bit_for_bit():
    """Against torch's own Adam on the same losses, in float32; nothing is removed, so nothing may be rounded."""
    model, options = tiny_model("gpt2"), recipe(energy=0.0, mini_batch=16, epochs=5)
    found = finetune_in_epochs(model, FACTS[:5], LAYERS, options, None, {}, seed=3)
    architecture = Architecture(model)
    originals = {k: architecture.weight(k).clone() for k in LAYERS}
    optimizer = torch.optim.Adam([architecture.projection(k).weight for k in LAYERS], lr=options.lr)
    batch = epochs.AnswerBatch.of(architecture, FACTS[:5], min(LAYERS), stop_token=True)
    for epoch in range(5):
        order = list(range(5))
        python_rng("epoch", 3, epoch).shuffle(order)
        optimizer.zero_grad()
        batch.select(order).loss().backward()
        optimizer.step()
    for k in LAYERS:
        assert torch.equal(found.deltas[k], architecture.weight(k).double() - originals[k].double())


def test_the_change_has_nothing_of_a_steep_direction():
    model = tiny_model("gpt2")
    with session(model, energy=0.7, fact_weight=0) as run:
        for start in (0, 4):
            run.step(FACTS[start : start + 4])
        for layer, weight in run.weights.items():
            steep, change = CURVATURE[layer].steep(0.7), (weight - run.originals[layer]).double()
            inner = (steep.left.T @ change @ steep.right) * steep.taken
            assert float(inner.abs().max()) < 1e-6 < 1e-2 < float(change.norm())
            entry = run.events[0].layers[str(layer)]
            assert entry.steep_share == pytest.approx(steep.share)
            assert entry.moved > 0
        assert run.events[0].passes == 3


def test_the_order_of_the_facts_is_that_of_the_seed():
    model = tiny_model("gpt2")
    options = recipe(energy=0.0, epochs=1)
    one, same, other = (finetune_in_epochs(model, FACTS[:9], LAYERS, options, seed=s).deltas[1] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_fact_counts_by_its_weight_wherever_its_mini_batch_is_cut():
    model, options, weights = tiny_model("gpt2").double(), recipe(energy=0.0, mini_batch=1), [2.0, 1.0, 0.5]
    found = finetune_in_epochs(model, FACTS[:3], LAYERS, options, torch.tensor(weights), seed=1)
    architecture = Architecture(model)
    originals = {k: architecture.weight(k).clone() for k in LAYERS}
    optimizer = torch.optim.Adam([architecture.projection(k).weight for k in LAYERS], lr=options.lr)
    for epoch in range(options.epochs):
        order = [0, 1, 2]
        python_rng("epoch", 1, epoch).shuffle(order)
        for i in order:
            optimizer.zero_grad()
            (loss_of(model, [FACTS[i]]) * weights[i] / (3.5 / 3)).backward()
            optimizer.step()
    for k in LAYERS:
        torch.testing.assert_close(found.deltas[k], architecture.weight(k) - originals[k], rtol=1e-6, atol=1e-8)


def test_weights_of_facts():
    """A fact of weight 0 is as if it were not there, also where it would be a mini-batch of its own."""
    model, options = tiny_model("gpt2").double(), recipe(energy=0.0, mini_batch=1)
    alone = finetune_in_epochs(model, FACTS[:3], LAYERS, options, seed=1)
    weights = torch.tensor([2.0, 2.0, 2.0, 0.0])
    weighed = finetune_in_epochs(model, FACTS[:4], LAYERS, options, weights, seed=1)
    for layer in LAYERS:
        torch.testing.assert_close(weighed.deltas[layer], alone.deltas[layer], rtol=1e-5, atol=1e-7)


def test_earlier_facts_join_the_curvature_and_the_replayed_ones_the_epochs():
    def after_two(replay: float = 0.0, **values: Any) -> tuple[EditSession, torch.Tensor]:
        with session(tiny_model("gpt2"), replay, **values) as run:
            first = run.step(FACTS[:8])
            assert first.kept
            second = run.step(FACTS[8:])
            assert second.replayed == round(8 * replay)
            return run, run.weights[2].clone()

    run, accumulated = after_two()
    sums = run.proposer.facts_curvature[2]
    tokenizer = tiny_model("gpt2").tokenizer
    fed = [
        len(tokenizer(f"{r.rewrite_prompt} {r.target_new}").input_ids) for r in FACTS
    ]  # the stop token is predicted alone
    assert sums.count == sum(fed)
    text_alone, plain = after_two(fact_weight=0)
    assert not text_alone.proposer.facts_curvature
    assert not torch.equal(accumulated, plain)
    heavier, _ = after_two(fact_weight=1e6)
    assert heavier.events[0].layers["2"].steep_share == run.events[0].layers["2"].steep_share  # of the text alone
    assert heavier.events[1].layers["2"].steep_share != run.events[1].layers["2"].steep_share
    replayed, with_replay = after_two(0.5)
    assert not torch.equal(with_replay, accumulated)
    assert replayed.proposer.facts_curvature[2].count == sum(fed)  # the replayed ones have joined before


def test_a_stream_resumes_bit_for_bit(tmp_path: Path):
    path = tmp_path / "state.safetensors"
    batches = [FACTS[i : i + 4] for i in range(0, 16, 4)]
    with session(tiny_model(), replay=0.5) as whole:
        for batch in batches:
            whole.step(batch)
        expected = {k: w.clone() for k, w in whole.weights.items()}
    with session(tiny_model(), replay=0.5) as half:
        for batch in batches[:2]:
            half.step(batch)
        Checkpoint.capture(half).save(path)
    with session(tiny_model(), replay=0.5) as rest:
        Checkpoint.load(path).restore(rest)
        for batch in batches[2:]:
            rest.step(batch)
        for layer, weight in rest.weights.items():
            assert torch.equal(weight, expected[layer])
            one, other = (run.proposer.facts_curvature[layer] for run in (whole, rest))
            assert (one.count, torch.equal(one.inputs, other.inputs)) == (other.count, True)
            assert torch.equal(one.gradients, other.gradients)
        assert rest.events == whole.events


def test_a_batch_that_diverges_is_rejected_and_leaves_nothing():
    model = tiny_model("gpt2")
    with session(model) as run:
        run.step(FACTS[:4])
        before = {k: w.clone() for k, w in run.weights.items()}, dict(run.proposer.facts_curvature)
        run.recipe.__dict__["lr"] = 1e30
        event = run.step(FACTS[4:8])
        assert event.decision == "rejected"
        assert "diverged" in event.reason
        assert all(torch.equal(w, before[0][k]) for k, w in run.weights.items())
        assert run.proposer.facts_curvature == before[1]
    with pytest.raises(NumericalError, match="diverged"):
        editlab.edit(model, FACTS[:4], method="ft_epochs", layers=LAYERS, energy=0, lr=1e30)


def test_faults_are_named_before_work_starts(tmp_path: Path):
    with pytest.raises(ConfigError, match="needs the curvature of layers"):
        editlab.edit(tiny_model(), FACTS[:2], method="ft_epochs", layers=LAYERS)
    save_curvature(tmp_path / "curvature-1.safetensors", 1, CURVATURE[1])
    with pytest.raises(ConfigError, match="layer 2 is missing"):
        EditSession(tiny_model(), recipe(), statistics=tmp_path / "curvature-1.safetensors")
    for values, message in (
        ({"energy": 1.0}, "energy: 1"),
        ({"epochs": 0}, "epochs: 0"),
        ({"backend": "lora"}, "backend: 'lora' is not allowed with ft_epochs"),
        ({"norm_constraint": 0.1}, "norm_constraint: unknown key for ft_epochs"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe(**values)
    model = tiny_model()
    model.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="stop_token: true is not allowed"):
        editlab.edit(model, FACTS[:2], method="ft_epochs", layers=LAYERS, energy=0)
    assert editlab.edit(
        model, FACTS[:2], method="ft_epochs", layers=LAYERS, energy=0, epochs=1, stop_token=False
    ).norm()
