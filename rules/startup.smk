# What earlier runs and accidents left, looked at once before any job: locks of a killed run, folders that cannot be
# written, results whose inputs have changed behind the back of the dates.

import fcntl
import json
import os
import platform
import re
import sys
import time
from pathlib import Path

from editlab.errors import DamagedError
from editlab.files.artifacts import RECORDS
from editlab.files.provenance import (
    backdate,
    bring_to_present,
    check_inputs,
    dated_ahead,
    outdated,
    set_aside,
)

# Modes of Snakemake that run no job, as they can be written in full or cut short.
LOOKS = (
    "archive cleanup-metadata cleanup-shadow compilation-report conda-cleanup-envs conda-cleanup-pkgs conda-create-envs-only"
    " containerize d3dag dag delete-all-output delete-temp-output detailed-summary dry-run dryrun export-cwl filegraph help lint"
    " list list-changes list-code-changes list-conda-envs list-input-changes list-params-changes list-rules list-target-rules"
    " list-untracked print-compilation report rulegraph summary touch unlock version"
).split()
SHORT = re.compile(r"-[a-zA-Z]*n[a-zA-Z]*|-[SDFlvht]*[SDlvht]")


def looks_only(arguments):
    """Whether Snakemake was asked to look, not to run: then nothing may be written here."""
    if "--report-after-run" in arguments:
        return False
    words = [word.split("=")[0][2:] for word in arguments if word.startswith("--")]
    short = any(SHORT.fullmatch(word) for word in arguments)
    return short or any(
        len(word) > 2 and look.startswith(word) for word in words for look in LOOKS
    )


# Only Snakemake's own command runs jobs: an editor or another program that reads these files does not.
COMMAND = Path(sys.argv[0]).name == "snakemake" or sys.argv[0].endswith(
    os.path.join("snakemake", "__main__.py")
)
LOOKING = looks_only(sys.argv[1:]) or not COMMAND
RUNS_JOBS = workflow.is_main_process and not LOOKING


def the_only_run():
    """Take the kernel's lock on this folder, which ends with this process however it ends; end with one line when another
    run has it. Locks of Snakemake's own that are there nevertheless were left by a killed run, and are removed.
    """
    Path(".snakemake").mkdir(exist_ok=True)
    held = open(".snakemake/run.lock", "a+", encoding="utf-8")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.seek(0)
        sys.exit(
            f"{Path.cwd()}: another Snakemake is at work in this folder ({held.read().strip() or 'just started'}); "
            "wait for its end, or stop it"
        )
    except OSError:
        return held  # a file system without locks: Snakemake's own must do
    held.truncate(0)
    print(f"process {os.getpid()} on {platform.node()}", file=held, flush=True)
    locks = sorted(Path(".snakemake/locks").glob("*.lock"))
    for lock in locks:
        lock.unlink(missing_ok=True)
    if locks:
        print(
            "An earlier run in this folder was killed; its locks are removed.",
            file=sys.stderr,
        )
    return held


def check_writable(*folders):
    """End with one line where a folder cannot be written."""
    for folder in map(Path, folders):
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            sys.exit(
                f"{folder}: cannot be written (a read-only file system, or no permission); "
                "make it writable, or work in a copy of this folder"
            )


def correct_dates_ahead():
    """Results dated in the future, because the clock has gone back since: Snakemake would make everything behind them
    again, at every run, until the clock has caught up."""
    now = time.time()
    if ahead := {p: d for f in FOLDERS for p, d in dated_ahead(now, f).items()}:
        hours = (max(ahead.values()) - now) / 3600
        print(
            f"{OUT}: {len(ahead)} dates up to {hours:.1f} h in the future, the clock has gone back; "
            "they are moved to the present",
            file=sys.stderr,
        )
        bring_to_present(ahead, now)


def traced_layers(path):
    """The layers in a file that is needed to plan: compared with its provenance first, as the jobs do."""
    try:
        check_inputs([path])
    except DamagedError as error:
        if RUNS_JOBS:
            set_aside(error.path)
        raise WorkflowError(f"{error}; it is set aside, a plain rerun makes it again")
    return json.loads(Path(path).read_text(encoding="utf-8"))["layers"]


def date_back_outdated_results():
    """Results of which an input was exchanged, though dates say otherwise (the clock went back, an older file took the
    place of a newer one): give them an old date, so that they are made again."""
    found = {r: c for folder in FOLDERS for r, c in outdated(folder).items()}
    for result, changed in sorted(found.items()):
        print(f"{result}: out of date, {changed} has changed since", file=sys.stderr)
        if RUNS_JOBS:
            backdate(result)


# This run's results, and those that it takes its inputs from.
FOLDERS = sorted({Path(OUT), Path(INPUTS)})

if workflow.is_main_process:
    if RUNS_JOBS:
        check_writable(*FOLDERS, LOGS, ".snakemake")
        HELD = the_only_run()
        for folder in FOLDERS:
            Path(folder, RECORDS).mkdir(parents=True, exist_ok=True)
        correct_dates_ahead()
    date_back_outdated_results()
