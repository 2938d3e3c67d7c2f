"""A real Slurm of one node, started here: the tiny study through profiles/slurm, and what can go wrong on the way.

Needs root and Debian's slurm-wlm and munge (tests/cluster/slurm.sh says what is missing). Each flow starts from a local run whose
cells are taken away; what a flow did is read from the queue, which keeps finished jobs for five minutes, and from Slurm's own
record of completed jobs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Workflow, copy_workflow

from benchmarks.workflow import REPOSITORY

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
SCRIPT = REPOSITORY / "tests" / "cluster" / "slurm.sh"
MATRIX = "results/ablation_matrix.csv"
CELL = "results/edit/edit/substrate/facts/method~{}/batch~{}/replay~0/rank~0/seed~1"
CELLS = {"memit": 4, "emmet": 4, "none": 1}  # method -> batch, as it stands in the path


@dataclasses.dataclass(frozen=True)
class Job:
    """A line of the queue."""

    number: str
    state: str
    comment: str
    memory: str
    folder: str

    @property
    def method(self) -> str:
        return next((m for m in CELLS if f"_{m}_" in self.comment), "")


@dataclasses.dataclass(frozen=True)
class Cluster:
    folder: Path

    def call(self, *command: str, seconds: int = 20) -> str:
        return subprocess.run(
            ["timeout", "-k", "2", str(seconds), *command], capture_output=True, text=True, check=True
        ).stdout

    def jobs(self, workflow: Workflow) -> list[Job]:
        """Jobs of a folder in the order of their submission, finished ones included."""
        lines = self.call("squeue", "--states=all", "--noheader", "--sort=i", "--format=%i|%T|%k|%m|%Z").splitlines()
        found = [Job(*line.split("|")) for line in lines]
        return [job for job in found if job.folder == str(workflow.root)]

    def node(self, state: str) -> None:
        node = self.call("sinfo", "--noheader", "--format=%n").strip()
        self.call("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def completed(self) -> dict[str, str]:
        """Number of a job -> its state, from Slurm's record of completed jobs."""
        record = (self.folder / "log" / "jobs.txt").read_text()
        return dict(re.findall(r"^JobId=(\S+) .*? JobState=(\S+) ", record, re.MULTILINE))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = subprocess.run([SCRIPT, "check"], capture_output=True, text=True, check=False)
    if missing.returncode:
        pytest.skip(f"no Slurm here: {missing.stdout.strip()}")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    subprocess.run(["timeout", "-k", "5", "60", SCRIPT, "up", folder, str(os.getpid())], check=True)
    yield Cluster(folder)
    subprocess.run(["timeout", "-k", "5", "60", SCRIPT, "down", folder], check=True)
    assert not folder.exists()
    assert not Path("/etc/slurm/slurm.conf").exists()
    assert not [p for p in processes() if p in ("slurmctld", "slurmd", "munged", "slurmstepd")]


def processes() -> list[str]:
    names = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            names.append((folder / "comm").read_text().strip())
    return names


@pytest.fixture(scope="module")
def local(cluster, tmp_path_factory) -> Workflow:
    """The study, run on this machine."""
    workflow = copy_workflow(tmp_path_factory.mktemp("slurm") / "local")
    change(workflow, lambda study: study["edit"]["experiments"].update(edit=EDIT))
    workflow.run(MATRIX)
    return workflow


EDIT = {
    "methods": list(CELLS),
    "batch": [4],
    "replay": [0],
    "rank": [0],
    "seeds": [1],
    "num_edits": 8,
    "known_only": False,
}


def change(workflow: Workflow, edit: Callable[[dict], object]) -> None:
    study = yaml.safe_load((workflow.root / "tiny.yaml").read_text())
    edit(study)
    (workflow.root / "tiny.yaml").write_text(yaml.safe_dump(study))


def without_cells(local: Workflow, target: Path) -> Workflow:
    """A copy of the local run in which the cells and the matrix have still to be made."""
    shutil.copytree(local.root, target, symlinks=True, copy_function=shutil.copy2)
    shutil.rmtree(target / "results" / "edit")
    shutil.rmtree(target / "logs" / "edit_cell")
    (target / MATRIX).unlink()
    return Workflow(target)


def outspoken_sbatch(workflow: Workflow) -> Path:
    """A folder with an sbatch that writes down why it was refused, which the executor does not tell of groups."""
    folder = workflow.root / "bin"
    folder.mkdir(exist_ok=True)
    script = folder / "sbatch"
    script.write_text(f'#!/bin/sh\nexec {shutil.which("sbatch")} "$@" 2>> {workflow.root / "sbatch.log"}\n')
    script.chmod(0o755)
    return folder


@contextlib.contextmanager
def submitted(workflow: Workflow, *options: str) -> Iterator[subprocess.Popen]:
    """Snakemake with the profile, started; killed at the end of the block if it is still there."""
    command = [sys.executable, "-m", "snakemake", "--nocolor", MATRIX, "--profile", "profiles/slurm"]
    command += ["--configfile", "tiny.yaml", "--slurm-init-seconds-before-status-checks", "3", *options]
    environment = os.environ | {"PYTHONPATH": str(workflow.root), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{outspoken_sbatch(workflow)}{os.pathsep}{environment['PATH']}"
    with (workflow.root / "run.log").open("a") as log:
        process = subprocess.Popen(command, cwd=workflow.root, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(10)


def wait_for(what: Callable[[], object], process: subprocess.Popen, workflow: Workflow, seconds: float = 150):
    """What the function returns, once it is true; Snakemake must not have ended before."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"waited in vain; Snakemake: {process.poll()}\n{output(workflow)[-6000:]}")
        time.sleep(0.2)
    return found


def output(workflow: Workflow) -> str:
    refused = workflow.root / "sbatch.log"
    return (workflow.root / "run.log").read_text() + (refused.read_text() if refused.exists() else "")


def finish(process: subprocess.Popen, workflow: Workflow, status: int = 0) -> None:
    assert process.wait(200) == status, output(workflow)[-8000:]


def named(jobs: list[Job], part: str, *states: str) -> list[Job]:
    return [job for job in jobs if part in job.comment and (not states or job.state in states)]


def assert_same_cells(workflow: Workflow, local: Workflow, *methods: str) -> None:
    for method in methods:
        for name in ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors"):
            path = f"{CELL.format(method, CELLS[method])}/{name}"
            assert workflow.read(path) == local.read(path), path


def test_the_matrix_through_the_profile_while_the_node_is_drained_for_a_time(cluster, local, tmp_path):
    """The context templates, then the cells in one submission, but for one that was tried before; then the table. Before
    the last one the node takes no jobs."""
    workflow = without_cells(local, tmp_path / "work")
    shutil.rmtree(workflow.root / "results" / "contexts")
    log = "logs/edit_cell/edit-substrate-facts-none-1-0-0-1.log"
    shutil.copytree(
        local.root / "logs" / "edit_cell", (workflow.root / log).parent, ignore=lambda _, n: {*n} - {Path(log).name}
    )
    with submitted(workflow) as process:
        wait_for(lambda: [job.state == "PENDING" for job in cluster.jobs(workflow)] == [False] * 3, process, workflow)
        cluster.node("DRAIN")
        wait_for(lambda: named(cluster.jobs(workflow), "rule_tables", "PENDING"), process, workflow)
        time.sleep(2)
        assert named(cluster.jobs(workflow), "rule_cells", "COMPLETED")  # what ran was let run
        assert not (workflow.root / MATRIX).exists()
        cluster.node("RESUME")
        finish(process, workflow)
    jobs = cluster.jobs(workflow)
    assert sorted(job.comment for job in jobs) == [
        "rule_cells_edit_cell",
        "rule_edit_cell_wildcards_edit_substrate_facts_none_1_0_0_1",
        "rule_prepare_make_contexts",
        "rule_tables_collect_table",
    ]
    assert {cluster.completed()[job.number] for job in jobs} == {"COMPLETED"}
    assert workflow.read(MATRIX) == local.read(MATRIX)
    assert_same_cells(workflow, local, *CELLS)


def test_a_killed_snakemake_is_started_again(cluster, local, tmp_path):
    """Its jobs, still in the queue, are cancelled; the cells are made by tasks of an array."""
    workflow = without_cells(local, tmp_path / "work")
    with submitted(workflow) as process:
        wait_for(lambda: named(cluster.jobs(workflow), "rule_cells", "RUNNING"), process, workflow)
        wait_for(lambda: list((workflow.root / "logs").glob("edit_cell/*.log")), process, workflow)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    [left] = cluster.jobs(workflow)
    assert left.state == "RUNNING"
    change(workflow, lambda study: study.update(resources={"edit_cell": {"group_below": 0}}))
    with submitted(workflow, "--slurm-array-jobs", "edit_cell") as process:
        finish(process, workflow)
    assert f"Slurm jobs {left.number} were left by an earlier run in this folder" in output(workflow)
    cancelled, *tasks, table = cluster.jobs(workflow)
    assert cancelled.state == "CANCELLED"
    assert [task.number.partition("_")[2] for task in tasks] == ["1", "2", "3"]
    assert {job.state for job in [*tasks, table]} == {"COMPLETED"}
    assert workflow.read(MATRIX) == local.read(MATRIX)
    assert_same_cells(workflow, local, *CELLS)


def test_failures_are_retried_or_reported(cluster, local, tmp_path):
    """One cell fails, one needs more memory than it asked for, one is cancelled by hand."""
    workflow = without_cells(local, tmp_path / "work")
    # 451 MB for a batch of one fact, 1,801 for a batch of four (a cell takes some 700); and every cell a job of its own.
    edit_cell = {"mem_mb": 1, "mem_mb_per_fact": 450, "group_below": 0}
    change(workflow, lambda study: study.update(resources={"edit_cell": edit_cell}))
    workflow.break_solver("memit")
    with submitted(workflow, "--retries", "1") as process:
        [running] = wait_for(lambda: named(cluster.jobs(workflow), "_emmet_", "RUNNING"), process, workflow)
        time.sleep(1)
        cluster.call("scancel", running.number)
        finish(process, workflow, status=1)
    jobs, text = cluster.jobs(workflow), output(workflow)
    assert {m: [j.state for j in jobs if j.method == m] for m in CELLS} == {
        "memit": ["FAILED", "FAILED"],
        "emmet": ["CANCELLED", "COMPLETED"],
        "none": ["FAILED", "COMPLETED"],
    }
    assert [j.memory for j in jobs if j.method == "none"] == ["452M", "904M"]
    [log] = set(re.findall(r"log: .*, (\S+none\S+\.log)", text))  # the message leads to what Slurm said
    assert "exceeded memory limit" in Path(log).read_text()
    assert "error: solver memit: broken on purpose" in text
    assert not (workflow.root / MATRIX).exists()
    assert_same_cells(workflow, local, "emmet", "none")
