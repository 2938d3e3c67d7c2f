"""Results are compared with what is recorded about them: bytes, inputs, roots and code, whatever the clock says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from editlab.errors import ArtifactError, DamagedError, OutdatedError
from editlab.files.artifacts import (
    directory_digest,
    load_provenance,
    record_of,
    result_of_record,
    sha256,
    write_provenance,
    write_text,
)
from editlab.files.code import code_changed, code_digest
from editlab.files.provenance import (
    EARLY,
    backdate,
    check_inputs,
    commit_of,
    dated_ahead,
    digest,
    origins,
    outdated,
    record_outputs,
    recorded,
    records,
    set_aside,
)
from editlab.files.verify import main, rebuild, verify

DATA = Path("mine.json")
REQUESTS = Path("results/data/facts/requests.json")
MODEL = Path("results/models/substrate")
CELL = Path("results/edit/substrate/facts/method~memit/seed~1")
TABLE = Path("results/matrix.csv")


def make(outputs, inputs, **facts):
    """What a job does after its body."""
    record_outputs([str(o) for o in outputs], {**origins(inputs), **facts})


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A chain like a study's: the user's file, requests, a model, a cell, a table."""
    monkeypatch.chdir(tmp_path)
    write_text(DATA, "[1]")
    write_text(REQUESTS, "[1, 2]")
    make([REQUESTS], [DATA], code=code_digest("edit/generate_facts"))
    write_text(MODEL / "config.json", "{}")
    write_text(MODEL / "model.safetensors", "weights")
    make([MODEL], [REQUESTS])
    write_text(CELL / "metrics.csv", "a,b\n1,2\n")
    write_text(CELL / "curve.csv", "a\n1\n")
    write_provenance(CELL, origins([MODEL, REQUESTS]), ["metrics.csv", "curve.csv"])
    write_text(TABLE, "a\n1\n")
    make([TABLE], [CELL / "metrics.csv"])
    return tmp_path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_record_leads_down_to_the_users_file(study):
    found = load_provenance(record_of(TABLE))
    assert found["inputs"] == {str(CELL / "metrics.csv"): sha256(CELL / "metrics.csv")}
    assert set(found["roots"]) == {str(MODEL), str(REQUESTS), str(DATA)}
    assert found["roots"][str(MODEL)] == directory_digest(MODEL) == recorded(MODEL) == digest(MODEL)
    assert found["stats"] == {str(DATA): [3, DATA.stat().st_mtime_ns]}
    assert recorded(DATA) is None
    assert {r for r, _ in records(Path("results"))} == {REQUESTS, CELL, TABLE, MODEL}


def test_whole_inputs_pass(study):
    check_inputs([DATA, REQUESTS, MODEL, CELL / "metrics.csv", CELL / "curve.csv", TABLE, "results/not/there"])
    write_text("results/benchmarks/x.json", "{}")  # measured by hand
    check_inputs(["results/benchmarks/x.json"])
    check_inputs([record_of(CELL)])  # an input in its own right: tables of costs read it
    assert verify().findings == []
    assert verify().results == 4


RECORDS = Path("results/.provenance")
PLACES = {  # what is damaged: the input of a job that finds it
    REQUESTS: REQUESTS,
    MODEL / "config.json": MODEL,
    MODEL / "model.safetensors": MODEL,
    RECORDS / f"{MODEL.relative_to('results')}.json": MODEL,
    CELL / "metrics.csv": CELL / "metrics.csv",
    RECORDS / f"{CELL.relative_to('results')}.json": CELL / "metrics.csv",
    TABLE: TABLE,
    RECORDS / f"{TABLE.relative_to('results')}.json": TABLE,
}


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_damage_anywhere_is_refused_named_and_got_out_of_the_way(study, place, damage):
    used = PLACES[place]
    if damage == "flip":
        flip(place)
    elif damage == "truncate":
        place.write_bytes(place.read_bytes()[:-2])
    elif damage == "empty":
        place.write_bytes(b"")
    else:
        place.unlink()
    assert {f.kind for f in verify().findings} <= {"altered", "unknown", "stale", "orphaned"}
    assert verify().findings
    if not used.exists():
        return  # Snakemake itself makes missing files
    with pytest.raises(DamagedError) as caught:
        check_inputs([used])
    text = str(caught.value)
    assert str(place) in text or str(record_of(used)) in text
    assert "\n" not in text
    assert "; rebuild with: rm -" in text
    moved = set_aside(caught.value.path)
    assert moved
    assert all(path.name.endswith(".altered") for path in moved)
    assert not used.exists()
    assert not verify().of("altered")


def test_a_file_put_into_a_model_is_refused(study):
    write_text(MODEL / "more.safetensors", "x")
    with pytest.raises(DamagedError, match=r"more\.safetensors: not among the files that were made"):
        check_inputs([MODEL])
    assert [(f.kind, f.path) for f in verify().findings] == [("unknown", MODEL / "more.safetensors")]


def test_a_result_without_provenance_is_refused_and_only_it_is_moved(study):
    record_of(TABLE).unlink()
    with pytest.raises(DamagedError, match="rebuild with") as caught:
        check_inputs([TABLE])
    assert set_aside(caught.value.path) == [Path(f"{TABLE}.altered")]
    assert REQUESTS.exists()


def test_a_folder_with_folders_in_it_is_never_moved_whole(study):
    write_text("results/.provenance/results.json", "broken")
    record_of(TABLE).unlink()
    with pytest.raises(DamagedError) as caught:
        check_inputs([TABLE])
    set_aside(caught.value.path)
    assert CELL.is_dir()


def test_an_input_made_anew_is_noticed_with_any_date(study):
    write_text(MODEL / "model.safetensors", "other weights")
    make([MODEL], [REQUESTS])
    for file in MODEL.iterdir():
        os.utime(file, (1e9, 1e9))  # long before the cell
    with pytest.raises(OutdatedError, match=rf"metrics\.csv: out of date, {MODEL} has changed since; rebuild with"):
        check_inputs([CELL / "metrics.csv"])
    assert outdated() == {CELL: str(MODEL), TABLE: str(MODEL)}
    assert [(f.kind, f.result) for f in verify().findings] == [("stale", CELL)]
    for result in outdated():
        backdate(result)
    assert {p.stat().st_mtime for p in [*CELL.iterdir(), TABLE]} == {EARLY}
    assert (CELL / "metrics.csv").read_text() == "a,b\n1,2\n"


def test_an_exchanged_file_of_the_user_is_noticed_with_any_date(study):
    before = DATA.stat()
    assert outdated() == {}
    os.utime(DATA)  # a touch changes nothing
    assert outdated() == {}
    write_text(DATA, "[2]")
    os.utime(DATA, ns=(before.st_mtime_ns - 10**9, before.st_mtime_ns - 10**9))
    assert outdated() == {REQUESTS: str(DATA), TABLE: str(DATA)}
    DATA.unlink()
    assert outdated() == {}  # the configuration says that it is missing


def test_changed_code_is_stale(study, monkeypatch):
    assert not code_changed(code_digest("edit/generate_facts"))
    assert code_changed("edit/generate_facts:0000000000000000")
    assert code_changed("edit/nothing:0000000000000000")
    assert code_changed("x")
    record = json.loads(record_of(REQUESTS).read_text())
    del record["files"], record["versions"], record["checksum"]
    record_outputs([REQUESTS], {**record, "code": "edit/generate_facts:0000000000000000"})
    (finding,) = verify().findings
    assert finding.kind == "stale"
    assert finding.reason == "the code of edit/generate_facts has changed since it was made"


def test_verify_tells_what_to_do_and_does_it(study, capsys):
    assert main([]) == 0
    assert "4 results, 6 files" in capsys.readouterr().out
    flip(CELL / "curve.csv")
    write_text("results/stray.txt", "x")
    write_text(CELL / ".metrics.csv.abc.tmp", "half")
    assert main([]) == 1
    text = capsys.readouterr().out
    assert f"altered  {CELL / 'curve.csv'}: altered since it was made" in text
    assert "unknown  results/stray.txt: no record tells how it was made" in text
    assert "1 altered, 0 stale, 1 unknown, 0 orphaned" in text
    assert "1 temporary files of killed jobs" in text
    assert "SET_ASIDE=1" in text
    assert main(["--set-aside"]) == 1
    assert f"set aside: {CELL}.altered" in capsys.readouterr().out
    assert not CELL.exists()
    Path("results/stray.txt").unlink()
    assert main([]) == 0
    assert rebuild(verify()) == []
    assert main(["nothing"]) == 1
    assert "nothing: no such folder" in capsys.readouterr().err
    with pytest.raises(ArtifactError):
        verify(Path("nothing"))


@pytest.mark.parametrize(
    "change",
    [
        {"edits": 97},
        {"files": {"../x": "0" * 64}},
        {"inputs": {"a": 1}},
        {"stats": {"a": 1}},
        {"stats": []},
        {"code": 1},
    ],
    ids=str,
)
def test_a_record_that_was_written_by_hand_is_refused(study, change):
    write_provenance(CELL, {"edits": 96}, ["metrics.csv"])
    path = record_of(CELL)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DamagedError, match="damaged; rebuild with"):
        load_provenance(path)


def test_the_commit_is_read_from_the_checkout(tmp_path):
    assert commit_of(tmp_path) is None
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit_of(tmp_path) == commit
    (tmp_path / "a.py").write_text("1")
    assert commit_of(tmp_path) == commit  # results and notes are not tracked, and do not count
    subprocess.run([*git, "add", "a.py"], check=True)
    assert commit_of(tmp_path) == f"{commit}+changes"
    subprocess.run([*git, "reset", "-q"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree")], check=True)
    assert commit_of(tmp_path / "tree") == commit
    (tmp_path / "folder").mkdir()
    assert commit_of(tmp_path / "folder") is None  # not a checkout of its own
    subprocess.run([*git, "pack-refs", "--all"], check=True)
    assert commit_of(tmp_path) == commit
    subprocess.run([*git, "checkout", "-q", "--detach"], check=True)
    assert commit_of(tmp_path) == commit


# ---- where records are -----------------------------------------------------------------------------------------------


def test_a_record_is_named_like_its_result_in_the_folder_of_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = Path("results/full/edit/a/b.csv")
    assert record_of(table) == Path("results/.provenance/full/edit/a/b.csv.json")  # no folder of records yet
    Path("results/.provenance").mkdir(parents=True)
    Path("results/full/.provenance").mkdir(parents=True)
    assert record_of(table) == Path("results/full/.provenance/edit/a/b.csv.json")
    assert record_of("results/b.csv") == Path("results/.provenance/b.csv.json")
    for result in (table, Path("results/b.csv"), tmp_path / table):
        assert result_of_record(record_of(result)) == result


def test_records_of_another_run_are_its_own(study):
    Path("results/full/.provenance").mkdir(parents=True)
    other = Path("results/full/x.csv")
    write_text(other, "a\n2\n")
    make([other], [MODEL])
    assert {r for r, f in records(Path("results/full"))} == {other}
    assert other in {r for r, _ in records(Path("results"))}
    os.utime(other, (4e9, 4e9))
    assert dated_ahead(time.time(), Path("results")) == {}
    assert set(dated_ahead(time.time(), Path("results/full"))) == {other}
    write_text(DATA, "[3]")
    assert outdated(Path("results/full")) == {other: str(DATA)}
    assert other not in outdated(Path("results"))
    flip(other)
    assert {f.path for f in verify(Path("results/full")).findings} == {other}


def test_a_record_without_its_result_is_an_orphan(study, capsys):
    TABLE.unlink()
    assert [(f.kind, f.path) for f in verify().findings] == [("orphaned", record_of(TABLE))]
    assert main(["--set-aside"]) == 1
    assert not record_of(TABLE).exists()
    assert verify().findings == []
