"""What every script shares: the log is opened first, inputs are verified, a user's mistake ends in one line.

What a job read is compared with its provenance before the script's body runs; what it wrote gets a provenance after it.
"""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

from watchdog import watched

from editlab.errors import DamagedError, EditlabError, OutdatedError
from editlab.files.messages import messages
from editlab.files.provenance import backdate, check_inputs, commit_of, origins, record_outputs, set_aside
from editlab.files.timing import Stopwatch, peak_memory_mb

LARGE = 20_000  # characters of parameters beyond which only the code's digest is recorded: the lists of a table's cells


@contextlib.contextmanager
def job(snakemake):
    """Run a script's body with its log open (the value); exit 1 with one line on a user's mistake."""
    path = Path(str(snakemake.log[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # a log never writes through a link
        path.unlink()
    watch = Stopwatch()
    with _opened(path) as log, watched(_name(snakemake), _limit(snakemake), log), messages(sys.stderr, log):
        try:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            check_inputs(snakemake.input)
            with watch.stage("job"):
                yield log
            record_outputs(list(snakemake.output), _facts(snakemake, watch, getattr(log, "used", {})))
        except EditlabError as error:
            print(f"error: {error}", file=sys.stderr)
            _recover(error)
            _explain(snakemake, log)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            _explain(snakemake, log)
            sys.exit(1)


@contextlib.contextmanager
def _opened(path):
    """The log, line by line; that the disk is full shows at what the job writes."""
    log = path.open("w", encoding="utf-8", buffering=1)
    try:
        yield log
    finally:
        with contextlib.suppress(OSError):
            log.close()


def _name(snakemake):
    """The rule and the wildcards: ``edit_cell method=memit batch=32``."""
    return " ".join([snakemake.rule, *(f"{k}={v}" for k, v in snakemake.wildcards.items())])


def _limit(snakemake):
    """Seconds that the job may take: the resource ``runtime`` is in minutes."""
    minutes = snakemake.resources.get("runtime")
    return 60.0 * minutes if isinstance(minutes, int | float) else None


def _facts(snakemake, watch, child):
    """The record's facts; ``child``: what a child of the warm worker used for this job, which nobody else would count."""
    parameters = json.loads(json.dumps(dict(snakemake.params.items()), default=str))
    code = parameters.pop("code", "")
    seconds = watch.seconds()
    seconds["job"]["cpu"] = round(seconds["job"]["cpu"] + child.get("cpu", 0.0), 3)
    small = len(json.dumps(parameters)) <= LARGE
    return {
        **origins(snakemake.input),
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": parameters if small else {},
        "code": code,
        "commit": commit_of(),
        "threads": snakemake.threads,
        "seconds": seconds,
        "peak_memory_mb": round(max(peak_memory_mb(), child.get("peak_memory_mb", 0.0)), 1),
    }


def _recover(error):
    """Get an unusable input out of the way, so that a plain rerun makes it again."""
    if isinstance(error, OutdatedError):
        backdate(error.path)
        print(f"{error.path} is dated back: a plain rerun makes it again", file=sys.stderr)
    elif isinstance(error, DamagedError):
        for moved in set_aside(error.path):
            print(f"set aside as {moved}: a plain rerun makes it again", file=sys.stderr)


def _explain(snakemake, log):
    """Which job failed, with which parameters: into the log."""
    parameters = json.dumps(dict(snakemake.params.items()), default=str, sort_keys=True)
    with contextlib.suppress(OSError):
        print(f"failed: {_name(snakemake)}; parameters: {parameters[:LARGE]}", file=log)
