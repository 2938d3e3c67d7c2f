"""Ends a job that takes longer than its ``runtime``, or whose Snakemake has died, whatever the job is stuck in."""

import contextlib
import faulthandler
import os
import sys
import threading
from pathlib import Path

SNAKEMAKE = "EDITLAB_SNAKEMAKE"  # environment: process id of the Snakemake that starts the jobs (rules/common.smk)
GRACE = 5.0  # seconds until the interpreter itself is ended, when a library will not let go of it
ARM = 30.0  # seconds after which that is put off: time in which the process was stopped does not count
POLL = 1.0  # seconds between looks at whether Snakemake lives


@contextlib.contextmanager
def watched(name, seconds, log):
    """Run a block that is ended with exit status 1 after ``seconds`` (None: no limit) or with its Snakemake.

    Args:
        name: the job, for the message.
        log: open file that gets the message, and the place where the job hung.
    """
    done = threading.Event()
    _arm(seconds, log)
    watch = threading.Thread(target=_watch, args=(name, seconds, log, done, _line()), daemon=True)
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


def _watch(name, seconds, log, done, line):
    waited = 0.0
    while not done.wait(POLL if seconds is None else min(POLL, max(0.0, seconds - waited))):
        waited += POLL
        if _line() != line or _is_gone():
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


def _line():
    """Parent, its parent and so on up to Snakemake, or the parent alone where Snakemake is not among them.

    A shell between the two may outlive Snakemake; what is above Snakemake (a terminal that is closed) does not count.
    """
    snakemake, parent = os.environ.get(SNAKEMAKE, ""), os.getppid()
    line = [parent]
    with contextlib.suppress(OSError, IndexError, ValueError):
        while line[-1] > 1 and str(line[-1]) != snakemake:
            # The name in brackets may hold anything; after it come the state and the parent.
            status = Path(f"/proc/{line[-1]}/stat").read_text(encoding="utf-8", errors="replace")
            line.append(int(status.rpartition(")")[2].split()[1]))
    return line if str(line[-1]) == snakemake else [parent]


def _is_gone():
    """Whether Snakemake has died, perhaps before the job came to look."""
    snakemake = os.environ.get(SNAKEMAKE, "")
    return snakemake.isdigit() and Path("/proc/self").exists() and not Path("/proc", snakemake).exists()
