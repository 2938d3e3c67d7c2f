"""A copy of the workflow in a temporary folder, and one finished run of the tiny study that the tests look at."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.workflow

TINY = Path(__file__).with_name("tiny.yaml")


@dataclasses.dataclass(frozen=True)
class Workflow:
    """A folder in which Snakemake runs, with its own copy of the library in front of the installed one."""

    root: Path

    def run(self, *arguments: str, configfile: str | Path | None = "tiny.yaml", check: bool = True):
        command = [sys.executable, "-m", "snakemake", "--nocolor", *arguments]
        if "--cores" not in arguments:
            command += ["--cores", "2"]
        if configfile is not None:
            command += ["--configfile", str(configfile)]
        environment = os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder, with its copy of the library."""
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def jobs(self, *arguments: str, **options) -> dict[str, int]:
        """What a dry run would do: number of jobs by rule."""
        return self.job_counts(self.run("-n", *arguments, **options))

    @staticmethod
    def job_counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
        """Number of jobs by rule, from what a run printed."""
        text = done.stdout + done.stderr
        if "Job stats:" not in text:
            return {}
        table = text.split("Job stats:")[1].strip().splitlines()[2:]
        rows = [line.split() for line in table[: next(i for i, r in enumerate(table) if r.startswith("total"))]]
        return {row[0]: int(row[1]) for row in rows}

    def break_solver(self, name: str) -> None:
        """Make a solver fail, with a message of its own."""
        file = self.root / "editlab" / "algebra" / "solvers.py"
        text, head = file.read_text(), f"def {name}(options: {name.title()}, problem: Problem) -> Result:\n"
        assert head in text
        file.write_text(text.replace(head, f'{head}    raise ConfigError("solver {name}: broken on purpose")\n'))

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()


def copy_workflow(target: Path) -> Workflow:
    benchmarks.workflow.copy_workflow(target)
    shutil.copy(TINY, target / "tiny.yaml")
    return Workflow(target)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Workflow:
    """The tiny study, run once with two cores; tests that change it work on a copy."""
    workflow = copy_workflow(tmp_path_factory.mktemp("workflow") / "finished")
    workflow.run("results/ablation_matrix.csv")
    return workflow


@pytest.fixture
def copied(finished, tmp_path) -> Workflow:
    """A copy of the finished run (with times kept, so that nothing looks stale)."""
    target = tmp_path / "copy"
    shutil.copytree(finished.root, target, symlinks=True, copy_function=shutil.copy2)
    return Workflow(target)


@pytest.fixture
def fresh(tmp_path) -> Workflow:
    return copy_workflow(tmp_path / "fresh")


@pytest.fixture(scope="module")
def separate(tmp_path_factory) -> Workflow:
    """A copy of the workflow that the tests of one module share."""
    return copy_workflow(tmp_path_factory.mktemp("separate") / "workflow")
