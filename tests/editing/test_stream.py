"""A stream of edits: what is measured when, determinism, resumption, batches that fail; a cell from files to files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import reference
import torch
from tiny import tiny_model, tiny_requests

from editlab.algebra.second_moment import SecondMoment
from editlab.config.base import validated
from editlab.config.evaluation import Evaluation
from editlab.config.recipe import RECIPES, Recipe
from editlab.data.probes import MULTI_HOP, SINGLE_HOP, Probe
from editlab.data.requests import EditRequest, write_requests
from editlab.editing import cell, proposer
from editlab.editing import stream as stream_module
from editlab.editing.cell import RESULTS, run_cell
from editlab.editing.events import read_events
from editlab.editing.followup import FollowUp
from editlab.editing.session import EditSession
from editlab.editing.stream import StreamPlan, StreamResult, run_stream
from editlab.edits.edit import Edit
from editlab.errors import ArtifactError, DataError, NumericalError
from editlab.evaluation import evaluate
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.probing import answer_questions, questions_of, rewrite_question, score_probes
from editlab.evaluation.scoring import score_requests
from editlab.files.artifacts import directory_files, read_provenance, read_verified, write_json, write_text
from editlab.moments.stored import save_statistics
from editlab.networks.loading import load_model

FIELDS = {"layers": [1], "steps": 4, "lr": 0.5, "clamp": 2.0, "second_moment_weight": 5.0}
CONTEXTS = [["{}"], ["Yes. {}"]]
TEXTS = ("The weather is fine today.", "A dog and a cat live in the house.")
MOMENT = reference.moment(64)


def session_of(model, method: str = "memit", replay: float = 0.5, **fields) -> EditSession:
    common = {k: v for k, v in FIELDS.items() if k in RECIPES[method].model_fields}
    recipe = validated(Recipe, {"solver": method, **common, **fields}, "recipe")
    return EditSession(model, recipe, statistics={1: MOMENT}, contexts=CONTEXTS, replay=replay, seed=3)


def stream(
    requests, plan: StreamPlan, method: str = "memit", model=None, checkpoint=None, texts=(), **options
) -> StreamResult:
    with session_of(model or tiny_model("gpt2"), method, **options) as session:
        return run_stream(session, requests, plan, texts, checkpoint=checkpoint)


def planned(batch: int, snapshot_every: int = 32, **evaluation) -> StreamPlan:
    options = {"generation_cases": 0, "resamples": 1, **evaluation}
    return StreamPlan(batch=batch, snapshot_every=snapshot_every, evaluation=Evaluation(**options))


def value(frame: pd.DataFrame, **where) -> float:
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1
    return float(frame["value"].iloc[0])


PLAN = planned(3, 4, generation_cases=2, generation_tokens=5, resamples=20)


@pytest.fixture(scope="module")
def result() -> StreamResult:
    return stream(tiny_requests(10), PLAN, texts=TEXTS)


def test_final_scores_are_those_of_the_model_after_the_whole_stream(result):
    model, requests = tiny_model("gpt2"), tiny_requests(10)
    with result.edit.applied(model):
        expected = evaluate(model, requests, edited=requests)
        text = perplexity(model, TEXTS)
    final = result.metrics[result.metrics["when"] == "final"]
    for metric in ("ES", "PS", "NS", "NS_published", "NS_edited"):
        for protocol in ("success", "accuracy"):
            found = value(final, metric=metric, protocol=protocol)
            assert found == pytest.approx(value(expected, metric=metric, protocol=protocol), abs=1e-6)
    assert value(final, metric="perplexity") == pytest.approx(text, rel=1e-3)
    assert value(final, metric="GE") > 0


def test_immediate_scores_are_taken_right_after_each_batch(result):
    model, requests = tiny_model("gpt2"), tiny_requests(10)
    rows = []
    with session_of(model) as session:
        for start in range(0, 10, 3):
            session.step(requests[start : start + 3])
            rows.append(score_requests(model, requests[start : start + 3], ("rewrite",)))
    expected = pd.concat(rows).set_index("case_id")["magnitude"]
    found = result.cases[(result.cases["when"] == "immediate") & (result.cases["probe"] == "rewrite")]
    assert len(found) == 10
    for case, magnitude in zip(found["case_id"], found["magnitude"], strict=True):
        assert magnitude == pytest.approx(float(expected[case]), abs=1e-5)


def test_neighbours_count_as_long_as_their_own_fact_is_unedited(result):
    """Of the neighbours i + 3, i + 6, i + 9 of fact i, those below 10 are edited by the end, and only from then on."""
    model, requests = tiny_model("gpt2"), tiny_requests(10)
    rows, means = [], {"immediate": {}, "final": {}}
    with session_of(model) as session:
        for start in range(0, 10, 3):
            session.step(requests[start : start + 3])
            rows.append((min(start + 3, 10), score_requests(model, requests[start : start + 3], ("neighborhood",))))
        rows.append((10, score_requests(model, requests, ("neighborhood",))))
    for position, (edited, frame) in enumerate(rows):
        own = frame["case_id"].astype(int) + 3 * (frame["index"] + 1)
        kept = frame[own >= edited].groupby("case_id")["accuracy"].mean()
        means["final" if position == 4 else "immediate"] |= kept.to_dict()
        if position == 4:
            everyone, touched = frame.groupby("case_id")["accuracy"].mean().to_dict(), float((own < 10).mean())
    for when, expected in means.items():
        part = result.cases[result.cases["when"] == when].set_index(["probe", "case_id"])["accuracy"]
        assert part["neighborhood"].to_dict() == pytest.approx(expected)
    assert part["published_neighborhood"].to_dict() == pytest.approx(everyone)
    final = result.metrics[result.metrics["when"] == "final"]
    assert value(final, metric="NS_left_out") == pytest.approx(touched)
    last = result.curve[result.curve["edits_seen"] == 10].set_index("metric")["value"]
    assert last["neighborhood_left_out"] == pytest.approx(touched)
    assert 0 < touched < 1


def test_other_facts_of_an_edited_subject_are_scored_until_the_stream_comes_to_them():
    """Fact i + 143 has the subject of fact i; of the ten subjects of the stream three come twice."""
    everything = tiny_requests(160)
    requests = [*everything[:10], *everything[143:146]]
    facts = [*requests, *everything[146:150]]
    model = tiny_model("gpt2")
    with session_of(model) as session:
        found = run_stream(session, requests, planned(13, 13), facts=facts)
    scored = found.cases[(found.cases["probe"] == "same_subject") & (found.cases["when"] == "final")]
    assert set(scored["case_id"]) == {"3", "4", "5", "6"}  # those whose other fact the stream does not edit
    with found.edit.applied(model):
        asked = score_requests(model, everything[146:150], ("rewrite",)).set_index("case_id")
    for case, success in zip(scored["case_id"], scored["success"], strict=True):
        row = asked.loc[str(int(case) + 143)]
        assert success == float(row["log_prob_true"] > row["log_prob_new"])
    assert value(found.metrics, when="final", metric="SS", protocol="success") == scored["success"].mean()
    rewrite = found.cases[(found.cases["probe"] == "rewrite") & (found.cases["when"] == "final")]
    again = rewrite["case_id"].isin(["0", "1", "2"])
    assert (rewrite["edited_again"] == again.astype(int)).all()
    last = found.curve.set_index("metric")
    for name, part in (("repeated", rewrite[again]), ("single", rewrite[~again])):
        assert value(found.metrics, when="final", metric=f"ES_{name}", protocol="accuracy") == part["accuracy"].mean()
        assert last.loc[f"retention_{name}_success", "value"] == pytest.approx(part["success"].mean())
        assert last.loc[f"retention_{name}_success", "n"] == len(part)


def test_the_curve_has_a_point_each_snapshot_and_one_at_the_end(result):
    curve = result.curve
    assert sorted(set(curve["edits_seen"])) == [6, 9, 10]  # the batches in which 4, 8 and 10 are reached
    assert set(curve["metric"]) >= {"retention_success", "neighborhood_success", "perplexity", "target_norm"}
    assert value(curve, edits_seen=10, metric="delta_norm_layer1") == pytest.approx(result.edit.norm(), rel=1e-4)
    last = curve[curve["edits_seen"] == 10].set_index("metric")
    ages = [last.loc[f"retention_success_age{k}"] for k in (1, 2, 3, 4)]
    assert sum(a["n"] for a in ages) == last.loc["retention_success", "n"] == 10
    mean = sum(a["value"] * a["n"] for a in ages) / 10
    assert mean == pytest.approx(last.loc["retention_success", "value"])
    assert not curve["value"].isna().any()


def test_a_snapshot_looks_at_no_more_cases_than_asked():
    plan = planned(4, 4, retention_cases=3)
    curve = stream(tiny_requests(8), plan).curve
    assert curve[curve["metric"] == "retention_success"]["n"].tolist() == [3, 3]


def test_a_sample_of_the_stream_is_scored_as_in_the_whole(result):
    requests = tiny_requests(8)
    whole, part = (stream(requests, planned(4, 4, **more)) for more in ({}, {"scored_cases": 3}))
    chosen = sorted(set(part.cases["case_id"]))
    assert len(chosen) == 3
    kept = whole.cases[whole.cases["case_id"].isin(chosen)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.cases.reset_index(drop=True), kept)
    assert (
        value(part.metrics, when="final", metric="ES", protocol="success")
        == kept.loc[(kept["probe"] == "rewrite") & (kept["when"] == "final"), "success"].mean()
    )
    pd.testing.assert_frame_equal(part.curve, whole.curve)
    few = stream(requests, planned(4, 4, scored_cases=1))  # one of two batches has nothing to score
    assert set(few.cases["when"]) == {"final", "immediate"}


def test_equal_runs_are_equal_and_the_model_comes_back(result):
    model = tiny_model("gpt2")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    again = stream(tiny_requests(10), PLAN, model=model, texts=TEXTS)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    pd.testing.assert_frame_equal(again.metrics, result.metrics)
    pd.testing.assert_frame_equal(again.cases, result.cases)
    pd.testing.assert_frame_equal(again.curve, result.curve)
    assert again.events == result.events
    assert torch.equal(again.edit.delta(1), result.edit.delta(1))


@pytest.mark.parametrize("method", ["rome", "ft", "none", "alphaedit"])
def test_streams_of_other_methods(method):
    fields = {"null_space_threshold": 0.1} if method == "alphaedit" else {}
    plan = planned(1, 2)
    found = stream(tiny_requests(3), plan, method, replay=0.0, **fields)
    assert len(found.events) == 3
    assert (found.edit.norm() > 0) == (method != "none")
    assert sorted(set(found.curve["edits_seen"])) == [2, 3]


def test_a_rejected_batch_does_not_stop_the_stream(monkeypatch):
    plain, calls = proposer.solve, []

    def solve(problem, options):
        calls.append(1)
        if len(calls) == 2:
            raise NumericalError("memit system: condition number")
        return plain(problem, options)

    monkeypatch.setattr(proposer, "solve", solve)
    found = stream(tiny_requests(9), planned(3), replay=0.0)
    assert [e.decision for e in found.events] == ["accepted", "rejected", "accepted"]
    assert "condition number" in found.events[1].reason
    assert found.edit.info["cases"] == ["0", "1", "2", "6", "7", "8"]
    assert len(found.cases[(found.cases["when"] == "final") & (found.cases["probe"] == "rewrite")]) == 9
    json.dumps([e.record() for e in found.events], allow_nan=False)


class Killed(BaseException):
    pass


class Killer:
    """Stands for the progress bar; kills the run after some facts."""

    def __init__(self, after: int) -> None:
        self.left = after

    def update(self, count: int) -> None:
        self.left -= count
        if self.left <= 0:
            raise Killed


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
@pytest.mark.parametrize("after", [2, 5, 9])
def test_a_killed_stream_goes_on_and_ends_as_an_undisturbed_one(tmp_path, after, method):
    requests, plan = tiny_requests(10), planned(2, 4, resamples=10, checkpoint_every=4)
    fields = {"replay": 1.0} | ({"null_space_threshold": 0.1} if method == "alphaedit" else {})
    whole = stream(requests, plan, method, **fields)
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(Killed), session_of(tiny_model("gpt2"), method, **fields) as session:
        run_stream(session, requests, plan, progress=Killer(after), checkpoint=checkpoint)
    assert checkpoint.is_file() == (after > 2)
    resumed = stream(requests, plan, method, checkpoint=checkpoint, **fields)
    assert torch.equal(resumed.edit.delta(1), whole.edit.delta(1))
    assert resumed.events == whole.events
    pd.testing.assert_frame_equal(resumed.metrics, whole.metrics)
    pd.testing.assert_frame_equal(resumed.cases, whole.cases)
    pd.testing.assert_frame_equal(resumed.curve, whole.curve)


def cases_of_two(count: int) -> list[EditRequest]:
    """MQuAKE's manner: two edits a case, of which the second carries the questions; one question has an answer at hand."""
    found = [dataclasses.replace(r, group=str(i // 2)) for i, r in enumerate(tiny_requests(2 * count))]
    for first, last in zip(found[::2], found[1::2], strict=True):
        hops = (rewrite_question(first), rewrite_question(last))
        probes = (Probe(MULTI_HOP, hops), Probe(SINGLE_HOP, hops, every=True))
        found[found.index(last)] = dataclasses.replace(last, probes=probes)
    return found


def test_multi_hop_questions_are_asked_when_the_edits_of_a_case_are_in_and_again_at_the_end(tmp_path):
    requests, plan = cases_of_two(4), planned(3, 4, checkpoint_every=1)
    frames, model = [], tiny_model("gpt2")
    with session_of(model) as session:
        follow_up = FollowUp(session, requests, plan.evaluation, 0)
        for start in (0, 3, 6):
            session.step(requests[start : start + 3])
            last = [r for r in requests[start : start + 3] if r.probes]
            answers = answer_questions(model, questions_of(last))
            frames.append(score_probes(last, {}, answers))
            pd.testing.assert_frame_equal(follow_up.immediate(requests[start : start + 3]), frames[-1])
    whole = stream(requests, plan)
    for when, expected in (("immediate", pd.concat(frames)), ("final", None)):
        part = whole.metrics[(whole.metrics["when"] == when) & (whole.metrics["protocol"] == "exact")]
        for metric in (MULTI_HOP, SINGLE_HOP):
            (row,) = part[part["metric"] == metric].to_dict("records")
            assert row["n"] == 4
            if expected is not None:
                rows = expected[(expected["kind"] == metric) & (expected["measure"] == "exact")]
                assert row["value"] == pytest.approx(rows["right"].mean())
    assert not whole.metrics.query("when == 'immediate' and metric == 'generation'").size
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(Killed), session_of(tiny_model("gpt2")) as session:
        run_stream(session, requests, plan, progress=Killer(5), checkpoint=checkpoint)
    pd.testing.assert_frame_equal(stream(requests, plan, checkpoint=checkpoint).metrics, whole.metrics)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    requests, plan = tiny_requests(6), planned(2, checkpoint_every=1)
    checkpoint = tmp_path / "state.safetensors"
    stream(requests, plan, checkpoint=checkpoint)
    with pytest.raises(ArtifactError, match=r"^\S+state\.safetensors: [^\n]+$"):
        stream(requests[::-1], plan, checkpoint=checkpoint)
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=r"^\S+state\.safetensors: [^\n]+$"):
        stream(requests, plan, checkpoint=checkpoint)


# ---- a cell --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cell")
    model = tiny_model("gpt2")
    model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    write_requests(tiny_requests(12), folder / "requests.json")
    write_text(folder / "known.csv", "case_id,known\n" + "".join(f"{i},{int(i != 4)}\n" for i in range(12)))
    write_json(folder / "contexts.json", CONTEXTS)
    save_statistics(folder / "layer-1.safetensors", 1, SecondMoment(MOMENT, 640))
    return folder


def cell_plan(**changes) -> dict:
    fields = {
        "recipe": {"solver": "memit", **FIELDS},
        "batch": 4,
        "replay": 0.5,
        "seed": 1,
        "num_edits": 8,
        "known_only": True,
        "evaluation": {
            "snapshot_every": 4,
            "perplexity_sentences": 2,
            "generation_cases": 1,
            "generation_tokens": 4,
            "resamples": 10,
        },
        "loading": {},
    }
    return {**fields, **changes}


def run_in(inputs: Path, folder: Path, plan: dict, layers=None, **more) -> Path:
    folder.mkdir(exist_ok=True)
    suffix = {"events": "jsonl", "edit": "safetensors", "provenance": "json"}
    names = [*RESULTS, "provenance"]
    outputs = {name: str(folder / f"{name}.{suffix.get(name, 'csv')}") for name in names}
    run_cell(
        plan,
        threads=1,
        model=str(inputs / "model"),
        requests=str(inputs / "requests.json"),
        known=str(inputs / "known.csv"),
        contexts=str(inputs / "contexts.json"),
        statistics=[str(inputs / "layer-1.safetensors")],
        layers=layers,
        outputs=outputs,
        **more,
    )
    return folder


def test_a_cell_writes_a_whole_directory_twice_the_same(inputs, tmp_path):
    first, second = (run_in(inputs, tmp_path / name, cell_plan()) for name in "ab")
    assert all(read_verified(first / name) for name in directory_files(first))
    for name in ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    provenance = read_provenance(first)
    assert provenance["plan"]["recipe"]["solver"] == "memit"
    assert provenance["edits"] == 8
    assert any(path.endswith("requests.json") for path in provenance["inputs"])
    assert len(provenance["inputs"]) >= 4  # the model, its requests, contexts and statistics
    assert provenance["seconds"]["targets"]["wall"] > 0
    assert Edit.load(first / "edit.safetensors").norm() > 0
    events = [json.loads(line) for line in (first / "events.jsonl").read_text().splitlines()]
    assert len(events) == 2
    assert "4" not in {case for event in events for case in event["cases"]}  # the model does not know fact 4


def test_reading_is_timed_with_the_edited_model_and_then_with_the_unedited_one(inputs, tmp_path, monkeypatch):
    """Right after one another, on the same prompts."""
    original = load_model(str(inputs / "model")).state_dict()
    looked = []

    def seconds(model, pairs):
        changed = any(not torch.equal(v, original[k]) for k, v in model.state_dict().items())
        looked.append((changed, pairs))
        return 0.3 if changed else 0.2

    monkeypatch.setattr(cell, "scoring_seconds", seconds)
    plan = cell_plan(evaluation={**cell_plan()["evaluation"], "inference_prompts": 5})
    found = read_provenance(run_in(inputs, tmp_path / "timed", plan))["inference"]
    assert found == {"unedited": 0.2, "edited": 0.3}
    assert [changed for changed, _ in looked] == [True, False]
    assert looked[0][1] == looked[1][1]
    assert len(looked[0][1]) == 5


def test_a_cell_with_traced_layers_and_other_seeds(inputs, tmp_path):
    auto = {"solver": "memit", **FIELDS, "layers": "auto"}
    traced = run_in(inputs, tmp_path / "auto", cell_plan(recipe=auto), layers=[1])
    plain = run_in(inputs, tmp_path / "plain", cell_plan())
    assert (traced / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    other = run_in(inputs, tmp_path / "other", cell_plan(seed=2))
    assert (other / "cases.csv").read_bytes() != (plain / "cases.csv").read_bytes()


def test_a_cell_that_cannot_be_says_so_before_it_edits(inputs, tmp_path):
    with pytest.raises(DataError, match=r"11 of 12 facts are known"):
        run_in(inputs, tmp_path / "few", cell_plan(num_edits=12))
    assert list((tmp_path / "few").iterdir()) == []


# ---- controls --------------------------------------------------------------------------------------------------------


def test_the_random_control_replays_the_norms_of_another_cell(inputs, tmp_path):
    memit = run_in(inputs, tmp_path / "memit", cell_plan(replay=0.0))
    recipe = {"solver": "random", "layers": [1], "matched_to": "memit"}
    random = run_in(
        inputs, tmp_path / "random", cell_plan(recipe=recipe, replay=0.0), matched=str(memit / "events.jsonl")
    )
    wanted, found = (
        [event.layers["1"].update_norm for event in read_events((folder / "events.jsonl").read_text().splitlines())]
        for folder in (memit, random)
    )
    assert found == pytest.approx(wanted, rel=1e-9)
    norms = Edit.load(random / "edit.safetensors").norm()
    assert norms == pytest.approx(sum(n * n for n in wanted) ** 0.5, rel=0.2)  # nearly orthogonal in 32 x 64 dimensions
    own = run_in(inputs, tmp_path / "own", cell_plan(recipe={"solver": "random", **FIELDS}, replay=0.0))
    drifted = read_events((own / "events.jsonl").read_text().splitlines())[1].layers["1"].update_norm
    assert drifted != pytest.approx(wanted[1], rel=1e-6)  # MEMIT on the model that the noise has moved
    with pytest.raises(DataError, match="matched_to: the events of a cell of memit are missing"):
        run_in(inputs, tmp_path / "missing", cell_plan(recipe=recipe, replay=0.0))
    with pytest.raises(DataError, match="2 batches; the stream has 8"):
        run_in(
            inputs, tmp_path / "o", cell_plan(recipe=recipe, replay=0.0, batch=1), matched=str(memit / "events.jsonl")
        )


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shuffled_targets_are_dealt_to_one_another(count):
    requests, model = tiny_requests(count), tiny_model("gpt2")
    with session_of(model, replay=0.0) as plain, session_of(model, "shuffled", replay=0.0) as control:
        own, dealt = plain.proposer.targets(requests).delta, control.proposer.targets(requests).delta
    gaps = torch.cdist(own.T, dealt.T)
    giver = gaps.argmin(dim=0)
    assert float(gaps.min(dim=0).values.max()) < 1e-4
    assert sorted(giver.tolist()) == list(range(count))
    assert all(int(g) != i for i, g in enumerate(giver))


def test_one_fact_alone_cannot_be_shuffled():
    found = stream(tiny_requests(3), planned(2), "shuffled", replay=0.0)
    assert [event.decision for event in found.events] == ["accepted", "rejected"]


@pytest.mark.parametrize(("most", "passes"), [(200, 4), (5, 5)])
def test_the_end_of_a_stream_is_not_scored_twice(monkeypatch, most, passes):
    """Two snapshots and, where the last one saw a sample alone, the end; beside them the two batches right after their edit."""
    asked = []

    def counted(model, requests, *rest, **more):
        asked.append([r.case_id for r in requests])
        return score_requests(model, requests, *rest, **more)

    monkeypatch.setattr(stream_module, "score_requests", counted)
    stream(tiny_requests(8), planned(4, 4, retention_cases=most))
    assert len(asked) == passes
