"""Files are whole or absent; altered ones are found; the digest of the code follows the imports."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editlab.errors import ArtifactError
from editlab.files.artifacts import (
    atomic_path,
    defused,
    directory_digest,
    load_tensors,
    read_provenance,
    read_verified,
    rebuild_command,
    record_of,
    replace_directory,
    save_tensors,
    sha256,
    write_csv,
    write_json,
    write_jsonl,
    write_provenance,
    write_text,
)
from editlab.files.code import HOME


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---- atomic writes -------------------------------------------------------------------------------------------------


def test_a_crash_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def crash(path: Path, error: BaseException) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(KeyboardInterrupt):
        crash(path, KeyboardInterrupt())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    with pytest.raises(ZeroDivisionError):
        crash(tmp_path / "b.txt", ZeroDivisionError())
    assert names(tmp_path) == ["a.txt"]


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import sys, time\nfrom editlab.files.artifacts import atomic_path\n"
        f"with atomic_path({str(path)!r}) as t:\n    t.write_text('half'); print('x', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=HOME) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    assert all(name == "a.txt" or name.endswith(".tmp") for name in names(tmp_path))


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.csv"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"a\.csv: cannot be written \(No space left on device\)$"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_a_full_disk_met_by_safetensors_is_told_in_the_same_way(tmp_path):
    """Its errors are of a kind of their own. No file may grow here, as on a full disk."""
    code = """
import contextlib, resource, sys, numpy
from editlab.files.artifacts import atomic_path, replace_directory
from editlab.errors import ArtifactError
from safetensors.numpy import save_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write, name in ((atomic_path, ""), (replace_directory, "model.safetensors")):
    try:
        with write("x") as target:
            save_file({"a": numpy.ones(5000)}, target / name if name else target)
    except ArtifactError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("x: cannot be written (") == 2, done.stderr
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_a_writer_that_fails_half_way(tmp_path):
    with pytest.raises(ArtifactError, match=r"out\.bin"), atomic_path(tmp_path / "out.bin"):
        Path("/dev/full").write_bytes(b"x" * 10)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    """Also where the tests run as root, whom a read-only folder does not stop: a file is in the folder's place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"x\.json: cannot be written \("):
        write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(ArtifactError, match="cannot be written"), replace_directory(tmp_path / "file" / "folder"):
        pass
    if os.geteuid() == 0:
        return
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    with pytest.raises(ArtifactError, match=r"x\.json: cannot be written"):
        write_json(tmp_path / "locked" / "x.json", {})


def test_text_is_utf8_with_plain_line_ends_and_readable_by_others(tmp_path):
    write_text(tmp_path / "sub" / "a.txt", "Žofie\nb")
    assert (tmp_path / "sub" / "a.txt").read_bytes() == "Žofie\nb".encode()
    assert (tmp_path / "sub" / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_directory_takes_its_place_whole(tmp_path):
    with replace_directory(tmp_path / "model") as folder:
        (folder / "a").write_text("1")

    def crash() -> None:
        with replace_directory(tmp_path / "model") as folder:
            (folder / "b").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["a"]
    with replace_directory(tmp_path / "model") as folder:
        (folder / "c").write_text("3")
    assert names(tmp_path / "model") == ["c"]
    write_text(tmp_path / "file", "x")
    with replace_directory(tmp_path / "file") as folder:
        (folder / "d").write_text("4")
    assert names(tmp_path / "file") == ["d"]


# ---- formats -------------------------------------------------------------------------------------------------------


def test_json_is_stable_in_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "Ž"})
    write_json(tmp_path / "b.json", {"a": "Ž", "b": 1})
    assert sha256(tmp_path / "a.json") == sha256(tmp_path / "b.json")
    write_jsonl(tmp_path / "c.jsonl", [{"b": 1, "a": 2}, {"x": "line\nbreak"}])
    rows = (tmp_path / "c.jsonl").read_text().splitlines()
    assert [json.loads(r) for r in rows] == [{"a": 2, "b": 1}, {"x": "line\nbreak"}]


@given(
    st.lists(st.text(max_size=6), min_size=1, max_size=4), st.lists(st.floats(allow_nan=False), min_size=1, max_size=4)
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_never_start_a_formula(tmp_path, texts, values):
    n = min(len(texts), len(values))
    frame = pd.DataFrame({"text": texts[:n], "value": values[:n]})
    before = frame.copy()
    write_csv(tmp_path / "t.csv", frame)
    pd.testing.assert_frame_equal(frame, before)  # the caller's table is not touched
    data = (tmp_path / "t.csv").read_bytes()
    write_csv(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_bytes() == data
    found = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, dtype={"text": str}, lineterminator="\n")
    assert list(found["text"]) == list(frame["text"].map(str))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_text_stands_as_it_is_and_is_defused_in_a_copy_for_people(tmp_path, text):
    frame = pd.DataFrame({"a": [text, "plain"], "b": [0.1234567, math.inf]})
    write_csv(tmp_path / "t.csv", frame)
    lines = (tmp_path / "t.csv").read_bytes().decode()
    assert text in lines
    assert f"'{text}" not in lines
    assert list(defused(frame)["a"]) == [f"'{text}", "plain"]
    assert list(frame["a"]) == [text, "plain"]
    assert "plain,inf" in lines
    assert "0.123457" in lines


def test_tensors_come_back_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 4, dtype=torch.float64).T, "b": torch.zeros(0, 5), "c": torch.arange(3)}
    save_tensors(tmp_path / "t.safetensors", tensors, {"info": {"x": [1, "Ž"]}})
    found, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"info": {"x": [1, "Ž"]}}
    assert all(torch.equal(found[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("length", range(0, 64, 8))
def test_tensors_lie_where_pytorch_puts_them_whatever_the_header(length, tmp_path):
    """Products round differently by the address of their factors: a resumed run would differ from one undisturbed."""
    save_tensors(tmp_path / "t.safetensors", {"a": torch.ones(3), "b": torch.ones(5, 7)}, {"text": "x" * length})
    assert [tensor.data_ptr() % 64 for tensor in load_tensors(tmp_path / "t.safetensors")[0].values()] == [0, 0]


def test_tensor_files_are_equal_byte_for_byte(tmp_path):
    """safetensors writes metadata entries in an order of its own; ours are one entry."""
    tensors = {name: torch.arange(4.0) for name in "abcdef"}
    metadata = {name: [name] for name in "uvwxyz"}
    contents = set()
    for i in range(8):
        save_tensors(tmp_path / f"{i}", dict(sorted(tensors.items(), reverse=i % 2 == 0)), metadata)
        contents.add((tmp_path / f"{i}").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("damage", ["truncate", "head", "empty", "pickle", "directory", "missing"])
def test_damaged_tensor_files_name_the_file(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(100)})
    data = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(data[:-10])
    elif damage == "head":
        path.write_bytes(b"\xff" * 8 + data[8:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        torch.save({"a": 1}, path)
    else:
        path.unlink()
        if damage == "directory":
            path.mkdir()
    with pytest.raises(ArtifactError, match=r"^\S+t\.safetensors: [^\n]+$"):
        load_tensors(path)


# ---- provenance ----------------------------------------------------------------------------------------------------


@pytest.fixture
def result(tmp_path):
    folder = tmp_path / "results" / "cell"
    write_text(folder / "metrics.csv", "a,b\n1,2\n")
    write_text(folder / "curve.csv", "a\n1\n")
    write_provenance(folder, {"seed": 1}, [folder / "metrics.csv", folder / "curve.csv"])
    return folder


def test_provenance_tells_how_and_with_what(result):
    found = read_provenance(result)
    assert found["seed"] == 1
    assert {"python", "torch", "numpy"} <= set(found["versions"])
    assert found["files"]["metrics.csv"] == sha256(result / "metrics.csv")
    assert read_verified(result / "metrics.csv") == result / "metrics.csv"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "longer", "empty", "missing"])
def test_an_altered_result_is_found_and_the_way_back_named(result, damage):
    path = result / "metrics.csv"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        flipped = bytes([*data[:-2], data[-2] ^ 1, data[-1]])
        path.write_bytes(
            {"truncated": bytes(data[:-1]), "flipped": flipped, "longer": bytes(data) + b"\n", "empty": b""}[damage]
        )
    with pytest.raises(ArtifactError) as caught:
        read_verified(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith(f"rebuild with: {rebuild_command(path)}")
    assert "\n" not in text
    assert read_verified(result / "curve.csv")


def test_a_file_that_provenance_does_not_know_is_not_trusted(result):
    write_text(result / "other.csv", "x")
    with pytest.raises(ArtifactError, match=r"other\.csv: "):
        read_verified(result / "other.csv")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": []}', "null", '{"files": 1}', "\xff", "[" * 100_000])
def test_damaged_provenance_is_an_error_of_one_line(result, text):
    record_of(result).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"^\S*\.provenance/\S*\.json: damaged; rebuild with: [^\n]+$"):
        read_verified(result / "metrics.csv")
    record_of(result).unlink()
    with pytest.raises(ArtifactError, match="no such file; rebuild with"):
        read_verified(result / "metrics.csv")


def test_the_digest_of_a_directory_follows_names_and_contents(tmp_path):
    write_text(tmp_path / "a", "1")
    write_text(tmp_path / "b", "2")
    first = directory_digest(tmp_path)
    write_json(tmp_path / ".hidden.json", {})
    os.utime(tmp_path / "a", (time.time() + 5, time.time() + 5))
    assert directory_digest(tmp_path) == first
    write_text(tmp_path / "a", "3")
    second = directory_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "c")
    assert len({first, second, directory_digest(tmp_path)}) == 3


def test_checksums_of_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        sha256(tmp_path / "missing")
