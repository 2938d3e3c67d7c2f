# The frame: the validated run, its folders, and what jobs find in their environment. Nothing here knows a study.

import functools
import gc
import os
import sys
from pathlib import Path

from editlab.config.run import (
    check_files,
    load_run,
    read_layers,
    source_of_inputs,
)
from editlab.errors import ConfigError
from editlab.files.code import code_digest
from editlab.files.holes import Missing
from editlab.files.worker import OWNER

try:
    # Not `config`, in which Snakemake has mixed the experiments of all layers.
    RUN = load_run(
        read_layers(
            [Path(workflow.basedir, "config.yaml"), *workflow.overwrite_configfiles],
            workflow.config_settings.config,
        )
    )
    SOURCE = source_of_inputs(RUN, workflow.basedir)
    check_files(RUN)
except ConfigError as error:
    sys.exit(str(error))

# Where the files of this run go; where its models, data and statistics are, which may be those of another run.
OUT = RUN.folder
INPUTS = RUN.inputs
LOGS = OUT.replace("results", "logs", 1)


# The same folders, as the paths of rules name them (plain: Snakemake does not see the constraints of wildcards in them).
pathvars:
    results=OUT,
    inputs=INPUTS,
    logs=LOGS,


# What `snakemake` makes where no target is named: functions that list files, one or more from each study.
TARGETS = []

# What the report needs to know of each study of the run (rules/{study}/report.smk; read by rules/reported.smk):
#   experiments: names of the declared ones          settings: the study's block, resolved
#   cells(experiment): (folder, coordinates) of each  files(experiment, name): that file of every cell, or its "record"
#   inputs: by name, a function that lists further files that tables are collected from; an empty list: the run has none
#   paths: by name, files that are looked at where they are there
REPORTED = {}

# Thousands of jobs are objects that live to the end: the collector need not look at them all the time.
gc.set_threshold(50_000, 20, 100)

# Jobs end with the Snakemake that starts them (workflow_scripts/watchdog.py).
os.environ.update(EDITLAB_SNAKEMAKE=str(os.getpid()))
# Cells of this process share a warm worker (editlab/files/worker.py), unless EDITLAB_WORKER=off; on a cluster those of one
# submission do.
SHARED = workflow.is_main_process or workflow.group_settings.local_groupid != "local"
if SHARED and os.environ.get("EDITLAB_WORKER") != "off":
    os.environ[OWNER] = str(os.getpid())
else:
    os.environ.pop(OWNER, None)

# Jobs use the library and the scripts of this checkout, wherever their interpreter comes from (conda, a container).
HOMES = [str(workflow.basedir), os.path.join(str(workflow.basedir), "workflow_scripts")]
SEARCHED = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ.update(
    PYTHONPATH=os.pathsep.join([*HOMES, *(p for p in SEARCHED if p and p not in HOMES)])
)

# Where a job finds its files: with a default storage (profiles/kubernetes) in copies of what it declares as input.
STORAGE = workflow.storage_settings
HERE = (
    os.path.join(
        STORAGE.local_storage_prefix,
        *STORAGE.default_storage_prefix.split("://"),
        "",
    )
    if STORAGE.default_storage_provider
    else ""
)


@functools.cache
def notice(line):
    """Tell something once, by the process that plans."""
    if workflow.is_main_process:
        print(line, file=sys.stderr)


def holes(table, files):
    """The parameter that makes a table again when a file behind it is gone (editlab/files/holes.py)."""
    found = Missing([] if HERE or RUN.allow_missing else files)
    if found.gone and Path(table).exists():
        notice(f"{table}: {found.gone[0]} is missing; both will be made again")
    return found


def rule_files():
    """The rule files of the studies that this run does; a file `common.smk` comes first in its folder."""
    folders = [Path(workflow.basedir, "rules", study) for study in RUN.studies]
    return [
        str(file)
        for folder in folders
        for file in sorted(
            folder.glob("*.smk"), key=lambda f: (f.name != "common.smk", f.name)
        )
    ]
