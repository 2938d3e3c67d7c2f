"""Run short tasks in children of one warm process, so that hundreds of them pay the import of torch once.

:func:`call` runs ``module:function`` with JSON arguments. With an *owner* (the process that starts the tasks, such as a
workflow engine) it goes to that owner's worker: the first caller starts it, it imports the modules once, and forks a
child for every call. A child has nothing but the imports in common with its brothers, so a result is the same as in a
process of its own. Lives are tied together: a child ends when its caller ends, the worker when its owner ends, so
nothing outlives a ``kill -9``. Where there is no fork (or the worker cannot be had) the function runs right here.

The socket lies in a directory that only its user may enter, messages are JSON, and only functions of editlab are run.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from editlab.errors import EditlabError
from editlab.files.messages import messages
from editlab.files.timing import peak_memory_mb

OWNER = "EDITLAB_OWNER"  # environment: process id of the owner; absent: no worker
PATIENCE = 60.0  # seconds to wait for a worker's socket
Preload = tuple[str, dict[str, Any]]  # target and arguments


def call(
    target: str,
    arguments: Mapping[str, Any],
    *,
    worker: str = "cells",
    preload: Sequence[Preload] = (),
    log: TextIO | None = None,
) -> dict[str, float]:
    """Run ``target`` (``"editlab.module:function"``) with keyword ``arguments``, in a warm child where possible.

    Args:
        arguments: JSON values only.
        worker: name of one of the owner's workers; each has its own imports.
        preload: calls that the worker makes once before its first fork, for the imports that they leave behind.
        log: open file that gets the child's messages beside the terminal.

    Returns:
        What the child used: ``cpu`` seconds and ``peak_memory_mb``; empty where the function ran right here.

    Raises:
        EditlabError: the one that the function raised, with its text.
        RuntimeError: the function failed otherwise (its traceback is in the log), or its process died.
    """
    connection = _connect(worker, preload)
    if connection is None:
        _function(target)(**arguments)
        return {}
    with connection:
        request = json.dumps({"target": target, "arguments": dict(arguments), "directory": str(Path.cwd())}).encode()
        files = [1, 2] + ([log.fileno()] if log is not None else [])
        answer = None
        with contextlib.suppress(ConnectionError):  # it died before it had read all of the request
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], files)
            connection.sendall(request)
            answer = _receive(connection)
    if answer is None:
        raise RuntimeError(f"{target}: its process ended without a reply (killed, or out of memory)")
    if "error" in answer:
        raise EditlabError(answer["error"])
    if answer.get("failed"):
        raise RuntimeError(f"{target} failed; see the traceback above")
    return dict(answer["used"])


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    if not module.startswith("editlab."):
        raise ValueError(f"{target!r} is not a function of editlab")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _connect(name: str, preload: Sequence[Preload]) -> socket.socket | None:
    """A connection to the owner's worker of that name, started if need be; None: do without."""
    owner = os.environ.get(OWNER, "")
    if not (owner.isdigit() and sys.platform == "linux" and _alive(int(owner))):
        return None
    with contextlib.suppress(OSError):
        directory = Path(tempfile.gettempdir(), f"editlab-{os.getuid()}-{owner}-{name}")
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid != os.getuid() or directory.stat().st_mode & 0o077:
            return None  # somebody else's: not to be trusted
        address = directory / "worker"
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                return _open(address)
            address.unlink(missing_ok=True)
            command = [sys.executable, "-m", "editlab.files.worker", str(address), owner, *map(json.dumps, preload)]
            with (directory / "messages").open("wb") as messages:
                worker = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
                )
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and worker.poll() is None:
                with contextlib.suppress(OSError):
                    return _open(address)
                time.sleep(0.02)
    return None


def _open(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # a process of another user: not our owner
    return True


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    data = b""
    while block := connection.recv(1 << 16):
        data += block
    return dict(json.loads(data)) if data else None


def serve(address: str, owner: int, preload: Sequence[Preload]) -> None:
    """Accept calls until the owner ends; a child for each. Runs in the worker's own process."""
    os.environ.pop(OWNER, None)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(256)
        for target, arguments in preload:
            with contextlib.suppress(Exception):  # only a head start: the child finds and reports what is wrong
                _function(target)(**arguments)
        while _alive(owner):
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not select.select([listener], [], [], 1.0)[0]:
                continue
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _child(connection)
    for left in Path(address).parent.iterdir():
        left.unlink(missing_ok=True)
    Path(address).parent.rmdir()


def _child(connection: socket.socket) -> None:
    """Take one call, answer it, and end, without the worker's clean-up."""
    answer: dict[str, Any] = {"failed": True}
    try:
        header, files, _, _ = socket.recv_fds(connection, 8, 3)
        size, body = int.from_bytes(header, "big"), b""
        while len(body) < size and (block := connection.recv(size - len(body))):
            body += block
        if not files or len(body) < size:
            os._exit(1)  # the caller died before it had asked: nobody to answer
        request = json.loads(body)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.chdir(request["directory"])
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        log = os.fdopen(files[2], "a", buffering=1) if len(files) > 2 else None
        with messages(sys.stderr, log) if log is not None else contextlib.nullcontext():
            answer = _answer(request)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            connection.sendall(json.dumps(answer).encode())
        os._exit(0)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what was asked: what it used, or in which way it failed."""
    try:
        _function(request["target"])(**request["arguments"])
    except EditlabError as error:
        return {"error": str(error)}
    except BaseException:
        traceback.print_exc()
        return {"failed": True}
    return {"used": {"cpu": time.process_time(), "peak_memory_mb": peak_memory_mb()}}


def _end_with(connection: socket.socket) -> None:
    """End this process as soon as its caller is gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), [json.loads(argument) for argument in sys.argv[3:]])
