"""Ends a job that takes longer than its ``runtime``, or whose Snakemake has died, whatever the job is stuck in."""

import contextlib
import faulthandler
import os
import sys
import threading
from pathlib import Path

from editlab.warm import OWNER

GRACE = 5.0  # seconds until the interpreter itself is ended, when a library will not let go of it
ARM = 30.0  # seconds after which that is put off: time in which the process was stopped does not count
POLL = 1.0  # seconds between looks at the ancestors


@contextlib.contextmanager
def watched(name, seconds, log):
    """Run a block that is ended with exit status 1 after ``seconds`` (None: no limit) or with its grandparent.

    Args:
        name: the job, for the message.
        log: open file that gets the message, and the place where the job hung.
    """
    done = threading.Event()
    _arm(seconds, log)
    watch = threading.Thread(target=_watch, args=(name, seconds, log, done, _ancestors()), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()  # or it could arm once more
        if seconds is not None:
            faulthandler.cancel_dump_traceback_later()


def _arm(seconds, log):
    """Let the interpreter end the process, in a thread of its own that waits for no lock of Python's."""
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=log)


def _watch(name, seconds, log, done, ancestors):
    waited = 0.0
    while not done.wait(POLL if seconds is None else min(POLL, max(0.0, seconds - waited))):
        waited += POLL
        if _ancestors() != ancestors or _owner_is_gone():
            _end(f"{name}: the Snakemake that started it has died; start it again", log)
        if seconds is not None and seconds > waited and waited % ARM < POLL:
            _arm(seconds - waited, log)
        if seconds is not None and waited >= seconds:
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(log)
            rule = name.split(" ")[0]
            _end(
                f"{name}: still running after {seconds / 60:g} minutes, its resource 'runtime'. Either it hangs "
                f"(where, is in its log) or it needs more: resources.{rule}.runtime in the configuration, in minutes",
                log,
            )


def _end(message, log):
    for stream in (log, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError):
            print(f"error: {message}", file=stream, flush=True)
    os._exit(1)


def _ancestors():
    """Parent (the shell of the job) and its parent (Snakemake); another one appears when one of them dies."""
    parent = os.getppid()
    with contextlib.suppress(OSError, IndexError, ValueError):
        # The name in brackets may hold anything; after it come the state and the parent.
        status = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace")
        return parent, int(status.rpartition(")")[2].split()[1])
    return (parent,)


def _owner_is_gone():
    """Whether the Snakemake that a local job was told of has died, perhaps before the job came to look."""
    owner = os.environ.get(OWNER, "")
    return owner.isdigit() and Path("/proc/self").exists() and not Path("/proc", owner).exists()
