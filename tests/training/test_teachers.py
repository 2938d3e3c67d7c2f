"""Training of the base and of adapters: side by side as alone, from one seed the same bits, and on nothing held out."""

from __future__ import annotations

import torch
from tiny_adapters import STUDY, base

from editlab.adapters.pool import train_joint, train_own_pool, train_pool
from editlab.data.tasks import letter_task_set
from editlab.networks.answers import answer_loss, encode
from editlab.networks.lora import adapted, stacked
from editlab.training.instructed import train_base
from editlab.training.schedule import trapezoid
from editlab.training.teachers import first_factors, train_together

TASKS = letter_task_set("smoke", 0)


def draws(names):
    return [lambda rng, t=TASKS[n]: t.draw(2, rng, "train") for n in names]


def test_adapters_trained_together_are_those_trained_alone():
    model, names = base(), TASKS.names("train")[:3]
    start = first_factors(model, 2, 0)
    seeds = [(0, n) for n in names]
    together = train_together(model, draws(names), [start] * 3, seeds, STUDY.teachers)
    for i, name in enumerate(names):
        alone = train_together(model, draws([name]), [start], [seeds[i]], STUDY.teachers)[0]
        for key, pair in alone.items():
            for one, other in zip(pair, together[i][key], strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_training_an_adapter_lowers_its_loss_and_leaves_the_base_alone():
    model, name = base(), TASKS.names("train")[0]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    options = STUDY.teachers.model_copy(update={"steps": 200, "batch": 8, "lr": 0.01})
    made = train_together(
        model, [lambda rng: TASKS[name].draw(8, rng, "train")], [first_factors(model, 2, 0)], [(0,)], options
    )
    import random

    batch = encode(model.tokenizer, TASKS[name].draw(20, random.Random(1), "test"))
    with torch.no_grad():
        plain = float(answer_loss(model, batch).mean())
        with adapted(model, stacked(made)):
            assert float(answer_loss(model, batch).mean()) < plain - 0.1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_pools_hold_what_they_promise():
    model = base()
    shared = train_pool(model, TASKS, STUDY.teachers, 0)
    assert shared.names[:9] == [t.name for t in TASKS.tasks]
    assert [n for n in shared.names if n.endswith("#2")] == [f"{n}#2" for n in TASKS.names("train")[:2]]
    again = train_pool(model, TASKS, STUDY.teachers, 0)
    assert [again.digest(n) for n in again.names] == [shared.digest(n) for n in shared.names]
    own = train_own_pool(model, TASKS, STUDY.teachers, 0)
    assert own.names == TASKS.names("train")[:3]
    joint = train_joint(model, TASKS, STUDY.teachers, 0)
    assert joint.names == ["joint", "joint_prompted"]
    key = next(iter(own.factors))
    # From one A_0 the first factors stay near each other, from their own they do not.
    apart = [float((p.factors[key][1][0] - p.factors[key][1][1]).norm()) for p in (shared, own)]
    assert apart[0] < apart[1]


def test_the_base_is_trained_the_same_twice_and_never_sees_what_is_held_out():
    seen = set()

    def spied(task):
        def draw(count, rng, use):
            seen.add((task.name, use))
            return task.draw(count, rng, use)

        return type(task)(task.name, task.split, task.parts, task.descriptions, task.held_out, draw)

    known = [spied(t) for t in TASKS.of("train", "validation")]
    first, log = train_base(known, STUDY.base, 0, progress=False)
    second, _ = train_base(known, STUDY.base, 0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert log[-1]["step"] == 4
    assert not {name for name, _ in seen} & set(TASKS.names("test"))
    assert {use for _, use in seen} == {"train"}


def test_the_rate_rises_stays_and_falls():
    rates = [trapezoid(s, 100, 0.1, 0.4) for s in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[59] == 1.0
    assert 0 < rates[99] < 0.05
    assert rates == sorted(rates[:60]) + sorted(rates[60:], reverse=True)
