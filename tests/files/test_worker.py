"""The warm worker: same results as in place, errors come back, and no process outlives those it belongs to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from editlab.errors import EditlabError
from editlab.files import worker as warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the worker forks: Linux only")
WRITE = "editlab.files.artifacts:write_json"


@pytest.fixture
def owner(monkeypatch, tmp_path):
    """A process that owns a worker; both are gone afterwards."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    monkeypatch.setenv(warm.OWNER, str(process.pid))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(warm.tempfile, "tempdir", None)
    yield process
    process.kill()
    process.wait()
    wait_until(lambda: not list(tmp_path.glob("editlab-*")))


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def children_named(address: Path) -> list[int]:
    """Processes whose command line holds the worker's address: the worker and its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(address).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_call_runs_in_a_child_of_one_worker_and_writes_what_it_would_here(owner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "b.json"):
        used = warm.call(WRITE, {"path": name, "value": {"x": [1, 2.5, "é"]}})
        assert used["cpu"] > 0
        assert used["peak_memory_mb"] > 1
    monkeypatch.delenv(warm.OWNER)
    assert warm.call(WRITE, {"path": "here.json", "value": {"x": [1, 2.5, "é"]}}) == {}
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes() == Path("here.json").read_bytes()
    (folder,) = tmp_path.glob("editlab-*")
    assert folder.stat().st_mode & 0o077 == 0
    assert len(children_named(folder / "worker")) == 1


def test_workers_of_other_names_are_others_and_end_with_the_same_owner(owner, tmp_path):
    for name in ("cells", "figures", "figures"):
        warm.call(WRITE, {"path": str(tmp_path / "x.json"), "value": name}, worker=name)
    folders = sorted(tmp_path.glob("editlab-*"))
    assert [folder.name.rsplit("-", 1)[1] for folder in folders] == ["cells", "figures"]
    assert [len(children_named(folder / "worker")) for folder in folders] == [1, 1]


def test_a_users_mistake_comes_back_as_such(owner, tmp_path):
    with pytest.raises(EditlabError, match=r"missing\.json"):
        warm.call("editlab.data:load_requests", {"path": str(tmp_path / "missing.json")})


def test_a_failure_leaves_its_traceback_in_the_log(owner, tmp_path):
    with (tmp_path / "log").open("w") as log, pytest.raises(RuntimeError, match="see the traceback"):
        warm.call(WRITE, {"path": str(tmp_path / "x"), "unknown": 1}, log=log)
    assert "TypeError" in (tmp_path / "log").read_text()


def test_only_functions_of_editlab_are_run(owner):
    with pytest.raises(RuntimeError):
        warm.call("os:system", {"command": "true"})


def test_a_killed_child_is_reported_and_a_killed_caller_ends_its_child(owner, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # a call that never ends: nobody writes into the pipe
    code = textwrap.dedent(f"""
        from editlab.files import worker as warm
        warm.call("editlab.files.artifacts:sha256", {{"path": {str(tmp_path / "pipe")!r}}})
    """)
    environment = os.environ | {"PYTHONPATH": str(Path(warm.__file__).parents[2])}
    warm.call(WRITE, {"path": str(tmp_path / "x"), "value": 1})
    (folder,) = tmp_path.glob("editlab-*")
    (worker,) = children_named(folder / "worker")
    caller = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(children_named(folder / "worker")) == 2)
    child = next(p for p in children_named(folder / "worker") if p != worker)
    os.kill(child, signal.SIGKILL)
    assert "ended without a reply" in caller.communicate(timeout=20)[1]
    caller = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_until(lambda: len(children_named(folder / "worker")) == 2)
    caller.kill()
    caller.wait()
    wait_until(lambda: children_named(folder / "worker") == [worker])


def test_a_process_that_dies_before_it_read_its_request_is_reported(monkeypatch):
    here, there = socket.socketpair()
    monkeypatch.setattr(warm, "_connect", lambda name, preload: here)
    died = threading.Thread(target=lambda: (there.recv(8), time.sleep(0.2), there.close()))  # unread data: a reset
    died.start()
    with pytest.raises(RuntimeError, match="ended without a reply"):
        warm.call(WRITE, {"path": "x", "value": 1})
    died.join()


def test_a_caller_that_dies_before_it_asked_leaves_no_child(owner, tmp_path):
    warm.call(WRITE, {"path": str(tmp_path / "x"), "value": 1})
    (folder,) = tmp_path.glob("editlab-*")
    (worker,) = children_named(folder / "worker")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(folder / "worker"))
        socket.send_fds(caller, [(100).to_bytes(8, "big")], [1, 2])
        caller.sendall(b"{")
        wait_until(lambda: len(children_named(folder / "worker")) == 2)
    wait_until(lambda: children_named(folder / "worker") == [worker])
