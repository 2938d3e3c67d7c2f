"""The parameter that makes a table due while a file behind it is gone."""

from __future__ import annotations

import json
import pickle

from editlab.files.holes import Missing


def test_it_differs_from_its_record_while_a_file_is_gone_and_only_then(tmp_path):
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.touch()
    parameter = Missing([here, gone])
    recorded = json.loads(json.dumps([repr(parameter)]))  # as Snakemake keeps it
    assert recorded == [""]
    assert set(recorded) - {repr(parameter)} == {""}
    assert {repr(parameter)} - set(recorded)
    kept = [repr(parameter)]  # and caches it in between
    gone.touch()
    assert set(recorded) - set(kept) == set(kept) - set(recorded) == set()
    here.unlink()
    assert set(recorded) != set(kept)


def test_a_script_gets_a_plain_text():
    found = pickle.loads(pickle.dumps(Missing(["nowhere"])))
    assert type(found) is str
    assert found == ""
