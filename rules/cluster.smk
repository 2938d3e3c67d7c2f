# What jobs ask of a cluster, which of them share a submission, and what a killed Snakemake has left there.

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from editlab.config import resources as needs


def resource(name, key):
    """A resource of jobs that do not load the model; see editlab/config/resources.py."""
    if key == "mem_mb":
        return lambda wildcards, attempt: needs.memory(RUN.resources, name, attempt)
    # No GPU is no request: some executors take a zero for one.
    return (
        needs.minutes(RUN.resources, name)
        if key == "runtime"
        else needs.gpus(RUN.resources, name) or None
    )


def model_resource(name, key, study, edits=None):
    """A resource of jobs that load a model of the study: memory grows with the model and the batch, time with the model and
    the number of edits, where it is given.
    """

    @functools.cache
    def amount(model, batch, attempt):
        sized = study.models[model]
        if key == "mem_mb":
            return needs.memory(RUN.resources, name, attempt, sized, batch)
        if key == "runtime":
            return needs.minutes(RUN.resources, name, sized, edits)
        return needs.gpus(RUN.resources, name, sized) or None

    def value(wildcards, attempt):
        return amount(wildcards.model, int(wildcards.get("batch", 0)), attempt)

    if key == "mem_mb" or len(study.models) > 1:
        return value
    return amount(study.model, 0, 1)


# A process on a cluster is told its jobs, but not that all of them belong together: profiles are read by the first alone.
if not workflow.is_main_process:
    workflow.group_settings.group_components = dict.fromkeys(
        ("prepare", "cells", "traced"), sys.maxsize
    )


def small_jobs(name, group, study, log=None, result=None):
    """The group in which jobs share a submission: none where the model is large, and none on this machine.

    A job that fails takes the others of its submission with it. One that was tried before (its log is there, its result is
    not) therefore goes alone: started once more, a run gets through with all but the guilty.
    """

    if LOOKING and workflow.is_main_process:
        return None

    @functools.cache
    def of_model(model):
        small = needs.is_small(RUN.resources, name, study.models[model])
        return group if small else None

    def tried(wildcards):
        values = dict(wildcards.items())
        return (
            Path(log.format(**values)).exists()
            and not Path(result.format(**values)).exists()
        )

    def value(wildcards):
        if workflow.local_exec:
            return None
        if log is not None and workflow.is_main_process and tried(wildcards):
            return None
        return of_model(wildcards.get("model", study.model))

    return value


# ---- jobs in Slurm that a killed Snakemake has left behind in this folder ------------------------------------------------
#
# Their work is started anew; it would be done twice, and a job that is still waiting would later take away a finished
# result and make it again.


def slurm(*command):
    """What a Slurm command prints; nothing where there is no cluster, or no answer."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""


def leftover_jobs():
    """Numbers of this user's unfinished jobs that a Snakemake in this folder has submitted."""
    queue = slurm("squeue", f"--user={os.getuid()}", "--noheader", "--format=%i|%k|%Z")
    found = []
    for line in queue.splitlines():
        number, _, rest = line.strip().partition("|")
        comment, _, folder = rest.rpartition("|")
        if comment.startswith("rule_") and folder == os.getcwd():
            found.append(number)
    return found


onstart:
    leftovers = leftover_jobs()
    if leftovers:
        print(
            f"Slurm jobs {', '.join(leftovers)} were left by an earlier run in this folder; they are cancelled.",
            file=sys.stderr,
        )
        slurm("scancel", *leftovers)
        deadline = time.monotonic() + 120
        while leftover_jobs():
            if time.monotonic() > deadline:
                sys.exit(
                    f"Slurm does not end the jobs {', '.join(leftover_jobs())}; see scontrol show job"
                )
            time.sleep(1)
