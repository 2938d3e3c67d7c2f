"""A session's state saved in the middle of a stream: what is restored goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_trust import recipe, session
from tiny import tiny_model, tiny_requests

from editlab.editing.checkpoint import SessionState
from editlab.editing.session import EditSession
from editlab.editing.stream import Checkpoint, StreamPlan, StreamResult, run_stream
from editlab.errors import ArtifactError

PLAN = StreamPlan(batch=4, snapshot_every=8, texts=("The city is old and the sea is near.",), resamples=20, seed=1)
METHODS: dict[str, tuple[dict[str, Any], int, float]] = {
    "emmet": ({}, 0, 0.5),
    "alphaedit": ({"solver": "alphaedit", "null_space_share": 0.5, "l2": 1.0}, 0, 0.0),
    "ft": ({"solver": "ft"}, 0, 0.5),
    "lora": ({"backend": "lora", "min_energy": 0.9, "max_rank": 6}, 3, 0.5),
    "append": ({"backend": "lora", "accumulate": "append", "max_rank": 8, "lora_metric": "frobenius"}, 3, 0.0),
    "trust": ({"trust": {"threshold": 0.6, "low": 0.2, "dynamic_window": 2}}, 0, 0.5),
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


def stream(name: str, checkpoint: Checkpoint | None = None, kill: int = 0, plan: StreamPlan = PLAN) -> StreamResult:
    with new_session(name) as run:
        return run_stream(run, tiny_requests(24), plan, KillAfter(kill) if kill else None, checkpoint)


def same(one: StreamResult, other: StreamResult) -> None:
    for table in ("metrics", "cases", "curve"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True)
    assert json.dumps(one.events, sort_keys=True) == json.dumps(other.events, sort_keys=True)
    assert one.edit.layers == other.edit.layers
    for layer in one.edit.layers:
        assert torch.equal(one.edit.delta(layer), other.edit.delta(layer))


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_stream_ends_like_an_undisturbed_one(name, tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=2)
    undisturbed = stream(name)
    with pytest.raises(Killed):
        stream(name, checkpoint, kill=3)
    assert checkpoint.path.is_file()
    same(stream(name, checkpoint), undisturbed)


def test_a_stream_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=5)
    with pytest.raises(Killed):
        stream("emmet", checkpoint, kill=1)
    assert not checkpoint.path.exists()
    same(stream("emmet", checkpoint), stream("emmet"))


def test_stress_and_labels_survive_too(tmp_path: Path):
    from dataclasses import replace

    plan = replace(PLAN, stress_fraction=0.4, label_cases=4)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=1)
    with pytest.raises(Killed):
        stream("trust", checkpoint, kill=4, plan=plan)
    resumed, undisturbed = stream("trust", checkpoint, plan=plan), stream("trust", plan=plan)
    same(resumed, undisturbed)
    stressed = [e for e in undisturbed.events if "stress" in e]
    assert len(stressed) == 2
    assert all("with" in e and "without" in e for e in undisturbed.events)
    harmless = {c for e in undisturbed.events if "stress" not in e for c in e["cases"]}
    assert set(undisturbed.cases["case_id"]) == harmless
    assert undisturbed.curve["edits_seen"].max() == 24


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    from dataclasses import replace

    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=2)
    stream("emmet", checkpoint)
    with pytest.raises(ArtifactError, match=r"differs in recipe"):
        stream("alphaedit", checkpoint)
    with pytest.raises(ArtifactError, match=r"differs in the plan"):
        stream("emmet", checkpoint, plan=replace(PLAN, batch=8))
    other = session(tiny_model(seed=5), recipe(replay_capacity=6, replay_strategy="priority"), replay=0.5)
    with other, pytest.raises(ArtifactError, match=r"model"):
        run_stream(other, tiny_requests(24), PLAN, None, checkpoint)


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=2)
    stream("emmet", checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"state\.safetensors"):
        stream("emmet", checkpoint)
    with new_session("emmet") as run:
        run.edit().save(checkpoint.path)
    with pytest.raises(ArtifactError, match="not a session checkpoint"):
        SessionState.load(checkpoint.path)


def test_capturing_changes_nothing_and_detaches(tmp_path: Path):
    with new_session("lora") as run:
        run.step(tiny_requests(24)[:4])
        state = SessionState.capture(run, {"note": 1})
        kept = state.tensors["weight.0"].clone()
        run.step(tiny_requests(24)[4:8])
        assert torch.equal(state.tensors["weight.0"], kept)
        after = run.weights[0].clone()
    with new_session("lora") as again:
        assert state.restore(again) == {"note": 1}
        again.step(tiny_requests(24)[4:8])
        assert torch.equal(again.weights[0], after)
