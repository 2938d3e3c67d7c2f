"""A copy of the workflow without results, in which a benchmark, the soak or a test may do what it likes."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PARTS = (
    "Snakefile",
    "config.yaml",
    "rules",
    "workflow_scripts",
    "runs",
    "profiles",
    "envs",
    "report",
    "editlab",
    "benchmarks",
)


def copy_workflow(folder: Path) -> Path:
    """Copy all that Snakemake needs, the library included, into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder
