"""Every benchmark runs at toy size and writes valid JSON; no time is ever asserted."""

from __future__ import annotations

import importlib
import json
import math

import pytest

from benchmarks import fuzz, table
from benchmarks.common import CONTEXTS, Timing, alternate, machine, ratio, subject
from benchmarks.names import BY_REQUEST, NAMES
from benchmarks.published import one_by_one
from benchmarks.run import main, measure
from benchmarks.solve import slope
from editlab.config.targets import TargetOptions
from editlab.editing.targets import optimize_targets
from editlab.errors import DataError
from editlab.files.artifacts import write_provenance, write_text

pytestmark = pytest.mark.xdist_group("benchmarks")  # all share one toy run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No result of the checkout is read."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in (*NAMES, *BY_REQUEST):
            measure(name, folder, quick=True)
    return folder


@pytest.mark.parametrize("name", [*NAMES, *BY_REQUEST])
def test_writes_valid_json(results, name):
    found = json.loads((results / f"{name}.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found["benchmark"] == name
    assert found["quick"] is True
    assert found["machine"]["cores"] >= 1


def test_what_the_files_hold(results):
    found = {name: json.loads((results / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES}
    assert found["targets"]["agreement"]["same_steps"] is True
    assert found["targets"]["agreement"]["relative_error_max"] < 1e-3
    assert found["targets"]["trained"] is False
    assert [row["facts"] for row in found["solve"]["layers"][0]["rows"]] == [4, 8]
    assert found["history"]["earlier_keys"] == 20
    assert found["history"]["difference"] < 1e-6
    assert found["evaluation"]["prompts"] == 4 * 13
    assert len(found["stream_memory"]["resident_mib"]) == 4
    shares = found["cell_split"]["methods"]["memit"]["cpu_share"]
    assert math.isclose(sum(shares.values()), 1, abs_tol=1e-3)
    assert {"load", "targets", "keys", "solve", "evaluate"} <= set(shares)


def test_full_size_runs_its_code_on_four_layers(results):
    found = json.loads((results / "full_size.json").read_text(encoding="utf-8"))
    assert found["device"] == "cpu"
    (model,) = found["models"]
    assert {(c["method"], c["batch"]) for c in model["cells"]} == {
        (m, b) for m in ("memit", "alphaedit") for b in (2, 1)
    }
    for cell in model["cells"]:
        assert cell["decision"] == "accepted"
        assert {"targets", "keys", "solve", "evaluate", "checkpoint"} <= set(cell["seconds_by_stage"])
        assert cell["seconds_an_edit"] > 0
        assert cell["resume_seconds"] > 0


def test_the_opponent_stops_as_the_library_does():
    found = subject(3)
    for stop in (0.0, 8.0):
        options = TargetOptions(steps=6, clamp=2.0, stop_loss=stop)
        z, steps = one_by_one(found.model, found.requests, 1, CONTEXTS, options)
        batched = optimize_targets(found.model, found.requests, 1, CONTEXTS, options)
        assert float((batched.z - z).norm() / z.norm()) < 1e-4
        assert batched.steps.tolist() == steps.tolist()
    assert int(steps.max()) < 5, "the stop rule was meant to act"


def test_recorded_cells_are_added_up_by_method(tmp_path):
    cell_split = importlib.import_module("benchmarks.cell_split")
    for seed in (1, 2):
        cell = tmp_path / f"results/edit/model/seed~{seed}"
        seconds = {"targets": {"cpu": 3.0, "wall": 4.0}, "solve": {"cpu": 1.0, "wall": 1.0}}
        write_text(cell / "metrics.csv", "x")
        write_provenance(
            cell, {"plan": {"recipe": {"solver": "memit"}}, "seconds": seconds, "edits": 10}, ["metrics.csv"]
        )
    write_text(tmp_path / "results/.provenance/edit/broken.json", "{")
    found = cell_split.run()
    assert found["source"] == "recorded cells"
    memit = found["methods"]["memit"]
    assert memit["cells"] == 2
    assert memit["edits"] == 20
    assert memit["cpu_share"] == {"targets": 0.75, "solve": 0.25}


def test_table_goes_between_the_markers_and_nowhere_else(results, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    for name in (*NAMES, *BY_REQUEST):
        found = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        (full / f"{name}.json").write_text(json.dumps({**found, "quick": False}), encoding="utf-8")
    readme = tmp_path / "README.md"
    assert not table.update(readme, full)
    assert not readme.exists()
    readme.write_text("# Title\n", encoding="utf-8")
    assert not table.update(readme, full)
    assert readme.read_text(encoding="utf-8") == "# Title\n"
    readme.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n", encoding="utf-8")
    assert table.update(readme, full)
    once = readme.read_text(encoding="utf-8")
    assert table.update(readme, full)
    assert readme.read_text(encoding="utf-8") == once
    assert once.startswith(f"before\n{table.START}\n| what | measured |")
    assert once.endswith(f"{table.END}\nafter\n")
    assert "old" not in once
    for text in (
        "Targets",
        "Solve",
        "earlier keys",
        "Full size",
        "Evaluation",
        "Resident memory",
        "Planning 100 cells",
        "CPU time of a cell of memit",
    ):
        assert text in once


def test_a_benchmark_that_was_not_run_again_keeps_its_rows(results, tmp_path):
    def measured(names):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            found = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
            (folder / f"{name}.json").write_text(json.dumps({**found, "quick": False}), encoding="utf-8")
        return folder

    everything, one = measured(NAMES), measured(["planning"])
    readme = tmp_path / "README.md"
    readme.write_text(f"{table.START}\n{table.END}\n", encoding="utf-8")
    assert table.update(readme, everything)
    before = readme.read_text(encoding="utf-8")
    changed = json.loads((one / "planning.json").read_text(encoding="utf-8"))
    changed["wall_seconds"]["planned"] = [123.4]
    (one / "planning.json").write_text(json.dumps(changed), encoding="utf-8")
    assert table.update(readme, one)
    after = readme.read_text(encoding="utf-8")
    pairs = list(zip(before.splitlines(), after.splitlines(), strict=True))
    assert [new for old, new in pairs if new != old] == [line for line in after.splitlines() if "123.4" in line]
    assert "123.4" in after


def test_no_reader_of_files_fails_on_broken_input(results):
    """Some 2,000 inputs; ``make fuzz`` gives them 112,000."""
    found = json.loads((results / "fuzz.json").read_text(encoding="utf-8"))
    assert found["inputs"] >= 1_900
    for name, reader in found["readers"].items():
        assert reader["inputs"] > 60, name
        assert sum(reader["refused"].values()) > 0, name
        assert reader["accepted"] > 0 or reader["inputs"] < 100, name


def test_an_undocumented_exception_ends_the_fuzzing():
    tally = fuzz.Tally()
    tally.count(lambda: None)
    with pytest.raises(ZeroDivisionError):
        tally.count(lambda: 1 / 0)
    with pytest.raises(AssertionError, match="not one printable line"):
        tally.count(lambda: _raise(DataError("two\nlines")))
    assert tally.inputs == 1


def _raise(error: Exception) -> None:
    raise error


def test_a_soak_has_its_row(tmp_path):
    kills = [{"kind": "everything"}, {"kind": "job"}]
    found = {
        "benchmark": "soak",
        "machine": machine(),
        "kills": kills,
        "jobs": 50,
        "damaged": 0,
        "unlike_provenance": 0,
    }
    (tmp_path / "soak.json").write_text(json.dumps({**found, "differences": []}))
    text = table.render(tmp_path)
    assert "`kill -9` at 2 random moments of 50 jobs (1 of everything, 1 of job)" in text
    assert "**the same files, byte for byte** as an undisturbed run; 0 damaged files accepted" in text
    (tmp_path / "soak.json").write_text(json.dumps({**found, "differences": ["x"], "damaged": 2}))
    assert "**1 files differ** as an undisturbed run; 2 damaged files accepted" in table.render(tmp_path)


def test_toy_runs_are_not_shown(results):
    assert "No benchmark" in table.render(results)


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "targets" in capsys.readouterr().err


def test_clock_alternates_and_compares_pairs():
    calls = []
    times = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert len(times["a"].cpu) == len(times["b"].wall) == 2
    found = ratio(Timing([4.0, 8.0], [4.0, 4.0]), Timing([1.0, 4.0], [2.0, 2.0]))
    assert found == {"cpu_min": 4.0, "cpu_median": 3.0, "wall_min": 2.0, "wall_median": 2.0}


def test_slope_is_the_exponent():
    assert slope([(n, 3.0 * n**2) for n in (2, 4, 8)]) == 2.0
