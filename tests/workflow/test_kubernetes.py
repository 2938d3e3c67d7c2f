"""profiles/kubernetes: planned against a bucket; and the same storage with jobs on this machine, down to the matrix.

No pod is started: what is tried is that every file of the workflow can live in S3, and that the profile is understood.
"""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Iterator

import pandas as pd
import pytest
import yaml
from cluster import s3
from conftest import Workflow, copy_workflow

from benchmarks.workflow import REPOSITORY

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("kubernetes")]
MATRIX = "results/ablation_matrix.csv"
CELL = "results/edit/edit/substrate/facts/method~none/batch~1/replay~0/rank~0/seed~1"
RECORD = "results/.provenance" + CELL.removeprefix("results") + ".json"
BUCKET = "editlab/"


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> str:
    """A folder with the packages of requirements-kubernetes.lock, installed for these tests alone."""
    if importlib.util.find_spec("snakemake_storage_plugin_s3"):
        return ""
    folder = tmp_path_factory.mktemp("packages")
    lock = REPOSITORY / "requirements-kubernetes.lock"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"{lock.name} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return str(folder)


@pytest.fixture
def store() -> Iterator[s3.Store]:
    with s3.serving() as found:
        yield found


@pytest.fixture
def workflow(tmp_path) -> Workflow:
    """The tiny study with one cell."""
    found = copy_workflow(tmp_path / "work")
    study = yaml.safe_load((found.root / "tiny.yaml").read_text())
    study["edit"]["experiments"]["edit"] |= {"methods": ["none"], "batch": [1], "replay": [0], "seeds": [1]}
    (found.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    return found


def run(workflow: Workflow, store: s3.Store, packages: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--nocolor", MATRIX, "--storage-s3-endpoint-url", store.url]
    keys = {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "test", "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "test"}
    path = os.pathsep.join(filter(None, [str(workflow.root), packages]))
    done = subprocess.run(
        [*command, *options, "--configfile", "tiny.yaml"],
        cwd=workflow.root,
        env=os.environ | keys | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def test_the_profile_plans_with_every_file_in_the_bucket(workflow, store, packages):
    done = run(workflow, store, packages, "--profile", "profiles/kubernetes", "--dry-run")
    assert Workflow.job_counts(done)["edit_cell"] == 1
    assert f"s3://{BUCKET}{CELL}/metrics.csv (in storage)" in done.stdout
    assert not store.objects


def test_the_matrix_is_made_through_the_bucket(workflow, store, packages):
    storage = ["--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{BUCKET}", "--shared-fs-usage"]
    run(workflow, store, packages, "--cores", "2", *storage, "none")
    assert not (workflow.root / MATRIX).exists()
    matrix = pd.read_csv(io.BytesIO(store.objects[BUCKET + MATRIX][0]))
    assert set(matrix["method"]) == {"none"}
    assert {f"{BUCKET}{CELL}/metrics.csv", f"{BUCKET}{RECORD}"} <= store.objects.keys()
