"""Events of many cells in one file: every line of every cell, with where it comes from."""

from __future__ import annotations

import json

import pytest

from editlab.editing.events import Event, gather_events
from editlab.errors import ArtifactError


def written(path, events):
    path.write_text("".join(json.dumps(e.record()) + "\n" for e in events), encoding="utf-8")
    return str(path)


def test_every_batch_has_its_line_with_the_coordinates_of_its_cell(tmp_path):
    events = [Event(batch=i, cases=[f"c{i}"], decision=d) for i, d in enumerate(("accepted", "rolled_back"))]
    first, second = written(tmp_path / "a.jsonl", events), written(tmp_path / "b.jsonl", events[:1])
    cells = [
        (first, {"experiment": "trust_eval", "batch": "32", "seed": "1"}),
        (second, {"experiment": "x", "batch": "1"}),
    ]
    lines = [json.loads(line) for line in gather_events(cells)]
    assert [(e["experiment"], e["batch"], e["number"]) for e in lines] == [
        ("trust_eval", "32", 0),
        ("trust_eval", "32", 1),
        ("x", "1", 0),
    ]
    kept = [{k: v for k, v in e.items() if k in ("cases", "decision")} for e in lines]
    assert kept == [{"cases": e.cases, "decision": e.decision} for e in (*events, events[0])]


def test_a_broken_line_names_its_file(tmp_path):
    path = written(tmp_path / "a.jsonl", [Event(batch=0)])
    (tmp_path / "a.jsonl").write_text('{"batch": 0}\n{"batch": "x"}\n', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"a\.jsonl"):
        list(gather_events([(path, {})]))
