"""Planning stays linear in the number of cells and looks at no file more than it must: counted, not timed."""

from __future__ import annotations

import pstats
import subprocess
from pathlib import Path

import pytest

from benchmarks.planning import command, write_study
from benchmarks.workflow import copy_workflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("planning")]
FEW, MANY = 50, 250


def planned(root: Path, cells: int) -> pstats.Stats:
    """Every function call of a dry run."""
    write_study(root, cells)
    line, options = command(root, "-m", "cProfile", "-o", "plan.profile")
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300, **options)
    assert f"edit_cell              {cells}" in done.stdout or f" {cells}\n" in done.stdout
    return pstats.Stats(str(root / "plan.profile"))


def calls(stats: pstats.Stats, *names: str) -> int:
    """Number of calls, of all functions or of those with one of the names."""
    return sum(value[1] for key, value in stats.stats.items() if not names or key[2] in names)


@pytest.fixture(scope="module")
def few_and_many(tmp_path_factory):
    root = copy_workflow(tmp_path_factory.mktemp("planning"))
    return planned(root, FEW), planned(root, MANY)


def test_a_cell_costs_so_many_function_calls(few_and_many):
    """14,100 calls a cell when this was written; 10 % more is too much."""
    few, many = few_and_many
    assert (calls(many) - calls(few)) / (MANY - FEW) < 15_600


def test_files_are_not_read_for_cells(few_and_many):
    """Neither globbed nor hashed: one file a cell is opened, the rule's script, which Snakemake looks for."""
    few, many = few_and_many
    for name in (
        "<built-in method io.open>",
        "<built-in method posix.scandir>",
        "<built-in method _hashlib.openssl_sha256>",
    ):
        assert calls(many, name) - calls(few, name) <= 1.1 * (MANY - FEW), name
