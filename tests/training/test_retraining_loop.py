"""Fine-tuning for as long as a block lasts: what it computes, in which order, and that nothing stays changed."""

from __future__ import annotations

import functools

import pytest
import torch
from tiny import tiny_model, tiny_requests

from editlab.errors import DataError, ModelError, NumericalError
from editlab.networks.tokenization import Encoder
from editlab.randomness import python_rng
from editlab.training.retraining import TokenRow, completion_rows, finetune, restored, split, token_loss

SHORT = {"epochs": 3, "batch": 5, "lr": 3e-3, "seed": 1}


def truth(count: int = 12) -> list[tuple[str, str]]:
    return [(r.rewrite_prompt, r.target_true) for r in tiny_requests(count)]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_split_is_seeded_and_whole():
    facts = list(range(11))
    retrained, held_out = split(facts, 0.5, 1)
    assert len(retrained) == 6
    assert sorted(retrained + held_out) == facts
    assert split(facts, 0.5, 1) == (retrained, held_out)
    assert split(facts, 0.5, 2) != (retrained, held_out)
    with pytest.raises(DataError, match=r"1 facts cannot be split at share 0\.5"):
        split(facts[:1], 0.5, 1)


def test_the_loss_is_the_mean_over_the_learned_tokens_of_all_rows():
    model = tiny_model().double()
    rows = completion_rows(model, truth(5))
    rows.append(TokenRow(rows[0].ids, [True] * len(rows[0].ids)))
    total, count = 0.0, 0
    for row in rows:  # one by one, without padding, token by token
        with torch.no_grad():
            logs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for position, (token, learned) in enumerate(zip(row.ids, row.learned, strict=True)):
            if learned and position > 0:
                total -= float(logs[position - 1, token])
                count += 1
    assert float(token_loss(model, rows, 0).detach()) == pytest.approx(total / count, rel=1e-5)


def test_completions_alone_are_learned():
    model = tiny_model()
    encoder = Encoder(model.tokenizer)
    for row, (prompt, completion) in zip(completion_rows(model, truth()), truth(), strict=True):
        learned = [token for token, counts in zip(row.ids, row.learned, strict=True) if counts]
        assert learned == encoder.targets([completion])[0]
        assert list(row.ids)[: -len(learned)] == encoder.prompts([prompt])[0]


def test_it_takes_the_steps_of_adam_in_the_seeded_order_bit_for_bit():
    expected, found, other = tiny_model(), tiny_model(), tiny_model()
    rows = completion_rows(expected, truth())
    adam = torch.optim.Adam(expected.parameters(), lr=SHORT["lr"])
    for epoch in range(3):
        order = list(range(12))
        python_rng("rtt order", 1, epoch).shuffle(order)
        for chosen in (order[:5], order[5:10], order[10:]):
            adam.zero_grad()
            token_loss(expected, [rows[i] for i in chosen], Encoder(expected.tokenizer).pad_id).backward()
            adam.step()
    losses = finetune(found, rows, **SHORT)
    assert same(weights(expected), weights(found))
    assert losses[0] > losses[1] > losses[2]
    finetune(other, rows, **{**SHORT, "seed": 2})
    assert not same(weights(expected), weights(other))


def test_everything_is_undone_bit_for_bit_also_after_an_error():
    model = tiny_model()
    model.transformer.wte.weight.requires_grad_(False)
    before, rows = weights(model), completion_rows(model, truth())
    with restored(model):
        finetune(model, rows, **SHORT)
        assert not same(before, weights(model))
    assert same(before, weights(model))
    assert not model.transformer.wte.weight.requires_grad
    with pytest.raises(NumericalError), restored(model):
        finetune(model, rows, **{**SHORT, "lr": 1e30, "epochs": 9})
    assert same(before, weights(model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_optimiser_parameters_and_the_scores_along_the_way():
    model, seen = tiny_model(), []
    before, rows = weights(model), completion_rows(model, truth())
    name = "transformer.h.0.mlp.c_fc.weight"
    losses = finetune(
        model,
        rows,
        **SHORT,
        optimizer=functools.partial(torch.optim.SGD, momentum=0.5),
        parameters=[model.get_parameter(name)],
        after_epoch=lambda epoch: seen.append((epoch, float(token_loss(model, rows, 0).detach()))),
    )
    assert [key for key, value in weights(model).items() if not torch.equal(before[key], value)] == [name]
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert seen[2][1] < seen[0][1]
    assert len(losses) == 3


def test_bad_rows_and_a_diverging_rate_are_told_in_one_line():
    model = tiny_model()
    rows = completion_rows(model, truth())
    for bad in ([], [TokenRow([1, 2, 3], [True, False, False])]):
        with pytest.raises(DataError, match="every row needs a token to learn"):
            finetune(model, bad, **SHORT)
    with pytest.raises(ModelError, match="the model's context holds"):
        finetune(model, [TokenRow([1] * 4000, [True] * 4000)], **SHORT)
    with pytest.raises(NumericalError, match=r"the loss of epoch \d is \w+; lower lr"):
        finetune(model, rows, **{**SHORT, "lr": 1e30, "epochs": 9})
