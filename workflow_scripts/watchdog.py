"""Ends a job that takes longer than its ``runtime``, or whose Snakemake has died, whatever the job is stuck in."""

import contextlib
import faulthandler
import os
import sys
import threading
from pathlib import Path

GRACE = 5.0  # seconds until the interpreter itself is ended, when a library will not let go of it
POLL = 1.0  # seconds between looks at the ancestors


@contextlib.contextmanager
def watched(name, seconds, log):
    """Run a block that is ended with exit status 1 after ``seconds`` (None: no limit) or with its grandparent.

    Args:
        name: the job, for the message.
        log: open file that gets the message, and the place where the job hung.
    """
    done = threading.Event()
    threading.Thread(target=_watch, args=(name, seconds, log, done, _ancestors()), daemon=True).start()
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=log)
    try:
        yield
    finally:
        done.set()
        if seconds is not None:
            faulthandler.cancel_dump_traceback_later()


def _watch(name, seconds, log, done, ancestors):
    waited = 0.0
    while not done.wait(POLL if seconds is None else min(POLL, max(0.0, seconds - waited))):
        waited += POLL
        if _ancestors() != ancestors:
            _end(f"{name}: the Snakemake that started it has died; start it again", log)
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
