"""A session's state saved in the middle of a stream: what is restored goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_trust import recipe, session
from tiny import tiny_model, tiny_requests

from editlab.config.evaluation import Evaluation
from editlab.editing.checkpoint import Checkpoint
from editlab.editing.session import EditSession
from editlab.editing.stream import StreamPlan, StreamResult, run_stream
from editlab.errors import ArtifactError
from editlab.networks.memory import Memory

TEXTS = ("The city is old and the sea is near.",)


def plan(save_after: int = 2, **values: Any) -> StreamPlan:
    """Batches of 4, and a checkpoint after so many of them."""
    options = Evaluation(generation_cases=0, resamples=20, checkpoint_every=4 * save_after)
    return StreamPlan(**{"batch": 4, "snapshot_every": 8, "seed": 1, "evaluation": options, **values})


METHODS: dict[str, tuple[dict[str, Any], int, float]] = {
    "emmet": ({}, 0, 0.5),
    "alphaedit": ({"solver": "alphaedit", "null_space_share": 0.5, "l2": 1.0}, 0, 0.0),
    "betaedit": (
        {"solver": "alphaedit", "null_space_share": 0.5, "l2": 1.0, "moment_weight": 2.0, "refresh_after": 8},
        0,
        0.0,
    ),
    "ft": ({"solver": "ft"}, 0, 0.5),
    "lora": ({"backend": "lora", "min_energy": 0.9, "max_rank": 6}, 3, 0.5),
    "append": ({"backend": "lora", "accumulate": "append", "max_rank": 8, "lora_metric": "frobenius"}, 3, 0.0),
    "trust": ({"trust": {"threshold": 0.6, "low": 0.2, "dynamic_window": 2}}, 0, 0.5),
    "ultra": ({"solver": "ultra", "lr": 1e-2}, 0, 0.5),
    "memory": ({"backend": "memory", "gate": 0.9995, "kl_factor": 0.0}, 0, 0.0),
    "greedy": ({"backend": "lora", "trust": {}, "greedy": {"when_stuck": "raise_rank"}}, 3, 0.5),
}


class Killed(Exception):
    pass


class KillAfter:
    """A progress bar that dies after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def update(self, _: int) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def new_session(name: str) -> EditSession:
    values, rank, replay = METHODS[name]
    values = {"replay_capacity": 6, "replay_strategy": "priority", "replay_eviction": "lru", **values}
    return session(tiny_model(), recipe(**values), rank=rank, replay=replay)


def stream(name: str, path: Path | None = None, kill: int = 0, given: StreamPlan | None = None) -> StreamResult:
    bar = KillAfter(kill) if kill else None
    with new_session(name) as run:
        return run_stream(run, tiny_requests(24), given or plan(), TEXTS, progress=bar, checkpoint=path)


def same(one: StreamResult, other: StreamResult) -> None:
    for table in ("metrics", "cases", "curve"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True)
    assert one.events == other.events
    assert one.edit.layers == other.edit.layers
    for layer in one.edit.factors:
        assert torch.equal(one.edit.delta(layer), other.edit.delta(layer))
    for layer, memory in one.edit.memory.items():
        same_memory(memory, other.edit.memory[layer])


def same_memory(one: Memory, other: Memory) -> None:
    assert one.size > 0
    assert one.facts == other.facts
    for part in ("keys", "residuals", "gates"):
        assert torch.equal(getattr(one, part), getattr(other, part))


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_stream_ends_like_an_undisturbed_one(name, tmp_path: Path):
    checkpoint = tmp_path / "state.safetensors"
    undisturbed = stream(name)
    with pytest.raises(Killed):
        stream(name, checkpoint, kill=3)
    assert checkpoint.is_file()
    same(stream(name, checkpoint), undisturbed)


def test_a_stream_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path):
    path, rarely = tmp_path / "state.safetensors", plan(save_after=5)
    with pytest.raises(Killed):
        stream("emmet", path, kill=1, given=rarely)
    assert not path.exists()
    same(stream("emmet", path, given=rarely), stream("emmet"))


def test_stress_and_labels_survive_too(tmp_path: Path):
    given, checkpoint = plan(1, stress_fraction=0.4, label_cases=4), tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        stream("trust", checkpoint, kill=4, given=given)
    resumed, undisturbed = stream("trust", checkpoint, given=given), stream("trust", given=given)
    same(resumed, undisturbed)
    stressed = [e for e in undisturbed.events if e.stress]
    assert len(stressed) == 2
    assert all(e.applied and e.without for e in undisturbed.events)
    harmless = {c for e in undisturbed.events if not e.stress for c in e.cases}
    assert set(undisturbed.cases["case_id"]) == harmless
    assert undisturbed.curve["edits_seen"].max() == 24


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    checkpoint = tmp_path / "state.safetensors"
    stream("emmet", checkpoint)
    with pytest.raises(ArtifactError, match=r"differs in recipe"):
        stream("alphaedit", checkpoint)
    with pytest.raises(ArtifactError, match=r"differs in the plan"):
        stream("emmet", checkpoint, given=plan(batch=8))
    other = session(tiny_model(seed=5), recipe(replay_capacity=6, replay_strategy="priority"), replay=0.5)
    with other, pytest.raises(ArtifactError, match=r"model"):
        run_stream(other, tiny_requests(24), plan(), TEXTS, checkpoint=checkpoint)


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    checkpoint = tmp_path / "state.safetensors"
    stream("emmet", checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"state\.safetensors"):
        stream("emmet", checkpoint)
    with new_session("emmet") as run:
        run.edit().save(checkpoint)
    with pytest.raises(ArtifactError, match="not a session checkpoint"):
        Checkpoint.load(checkpoint)


def test_capturing_changes_nothing_and_detaches(tmp_path: Path):
    with new_session("lora") as run:
        run.step(tiny_requests(24)[:4])
        state = Checkpoint.capture(run, {"note": 1})
        kept = state.tensors["weight.0"].clone()
        run.step(tiny_requests(24)[4:8])
        assert torch.equal(state.tensors["weight.0"], kept)
        after = run.weights[0].clone()
    with new_session("lora") as again:
        assert state.restore(again) == {"note": 1}
        again.step(tiny_requests(24)[4:8])
        assert torch.equal(again.weights[0], after)
