"""What must not go wrong when things go wrong: kills, damage, full and read-only disks, clocks, two runs at once.

Every fault ends in a message that names the file or job and says what to do; a plain start of the same command recovers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.soak import Command, differences, soak
from editlab.files.artifacts import load_provenance, record_of, write_json
from editlab.files.provenance import record_outputs
from editlab.files.verify import verify

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]
MATRIX = "results/ablation_matrix.csv"
CELL = "results/edit/edit/substrate/facts/method~{}/batch~{}/replay~{}/rank~0/seed~1"
REQUESTS = "results/data/facts/requests.json"
FILES = ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors")


def lines(done) -> list[str]:
    return (done.stdout + done.stderr).splitlines()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str):
    """A file system on a folder; skips where this user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


# ---- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_that_is_killed_three_times_ends_as_if_undisturbed(finished, fresh):
    study = yaml.safe_load((fresh.root / "tiny.yaml").read_text())
    study["edit"]["experiments"]["edit"] |= {"methods": ["emmet"], "batch": [4]}
    (fresh.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    found = soak(Command(fresh.root, MATRIX, 2, ("--configfile", "tiny.yaml")), kills=3, seed=3, mean=1.0)
    assert [kill["kind"] for kill in found["kills"]] == ["everything", "snakemake", "job"]
    assert found["damaged"] == found["outlived"] == found["unlike_provenance"] == 0
    assert len(list((fresh.root / "results/edit/edit").rglob("metrics.csv"))) == 2
    for replay in (0, 0.3):
        folder = CELL.format("emmet", 4, replay)
        for name in FILES:
            assert fresh.read(f"{folder}/{name}") == finished.read(f"{folder}/{name}"), name
    rows = finished.read(MATRIX).splitlines()
    assert fresh.read(MATRIX).splitlines() == [rows[0], *(r for r in rows if b",emmet,4," in r)]


def test_the_comparison_of_a_soak_sees_a_changed_byte(copied, finished):
    assert differences(copied.root, finished.root, MATRIX) == []
    flip(copied.root / CELL.format("memit", 4, 0) / "edit.safetensors")
    (copied.root / CELL.format("rome", 1, 0) / "curve.csv").unlink()
    assert [Path(d).name for d in differences(copied.root, finished.root, MATRIX)] == ["edit.safetensors", "curve.csv"]


def test_two_runs_in_one_folder_and_a_kill(fresh):
    first = Command(fresh.root, REQUESTS, 1, ("--configfile", "tiny.yaml"))
    os.mkfifo(fresh.root / "pipe")  # nobody writes: the job waits for its data
    study = yaml.safe_load((fresh.root / "tiny.yaml").read_text())
    study["edit"]["datasets"]["slow"] = {"kind": "counterfact", "path": "pipe"}
    (fresh.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    waits = fresh.root / "workflow_scripts" / "edit" / "generate_facts.py"
    script = waits.read_text()
    waits.write_text(script.replace("with job(snakemake):\n", "with job(snakemake):\n    open('pipe').read()\n"))
    run = first.start("two-runs")
    try:
        end = time.monotonic() + 60
        while not run.running():
            assert time.monotonic() < end, run.lines
            time.sleep(0.05)
        done = fresh.run(REQUESTS, check=False)
        assert done.returncode
        (message,) = [line for line in lines(done) if "another Snakemake is at work in this folder" in line]
        assert f"(process {run.process.pid} on " in message
        assert message.endswith("wait for its end, or stop it")
        assert fresh.jobs(REQUESTS)  # to look is allowed
    finally:
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
    assert run.survivors(15.0) == []
    waits.write_text(script)
    done = fresh.run(REQUESTS)
    assert "An earlier run in this folder was killed; its locks are removed." in done.stderr
    assert (fresh.root / REQUESTS).is_file()


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was_saved_and_leaves_nothing_behind(fresh):
    study = yaml.safe_load((fresh.root / "tiny.yaml").read_text())
    study["edit"]["models"]["substrate"]["steps"] = 1000
    (fresh.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    model, partial = "results/models/substrate", fresh.root / "results/training/partial-substrate.safetensors"
    run = Command(fresh.root, model, 1, ("--configfile", "tiny.yaml")).start("training")
    try:
        end = time.monotonic() + 120
        while not partial.is_file():
            assert time.monotonic() < end, run.lines
            time.sleep(0.02)
    finally:
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
    assert run.survivors(15.0) == []
    assert not (fresh.root / model).exists()
    fresh.run(model)
    log = (fresh.root / "logs/train_substrate/substrate.log").read_text()
    assert "substrate: going on from step " in log
    assert "substrate: step 1000 of 1000, loss " in log
    assert not partial.exists()
    assert not list(fresh.root.glob("<*"))  # a path variable that Snakemake did not fill in


# ---- damage --------------------------------------------------------------------------------------------------------


def test_a_damaged_model_is_named_and_a_plain_rerun_makes_the_same_again(copied, finished):
    cell = CELL.format("memit", 4, 0.3)
    weights = "results/models/substrate/model.safetensors"
    flip(copied.root / weights)
    (copied.root / cell / "metrics.csv").unlink()
    done = copied.run(f"{cell}/metrics.csv", check=False)
    assert done.returncode
    text = done.stdout + done.stderr
    assert f"error: {weights}: altered since it was made; rebuild with: rm -rf results/models/substrate && " in text
    assert "set aside as results/models/substrate.altered: a plain rerun makes it again" in text
    assert "Traceback" not in text
    copied.run(f"{cell}/metrics.csv")
    for name in FILES:
        assert copied.read(f"{cell}/{name}") == finished.read(f"{cell}/{name}"), name
    assert copied.read(weights) == finished.read(weights)


def test_any_flipped_or_truncated_file_is_listed(copied):
    """One file of every kind of result, all at once."""
    results = copied.root / "results"
    kinds = {}
    for path in sorted(p for p in results.rglob("*") if p.is_file() and "benchmarks" not in p.parts):
        if not path.name.startswith("."):
            kinds.setdefault((path.relative_to(results).parts[0], path.name), path)
    assert len(kinds) > 25
    for number, path in enumerate(kinds.values()):
        if number % 2:
            flip(path)
        else:
            path.write_bytes(path.read_bytes()[:-3])
    report = verify(results, progress=False)
    named = {f.path for f in report.findings if f.kind == "altered"}
    missed = [p for p in kinds.values() if p not in named and not _record_of(p) & named]
    assert missed == []
    assert (
        "altered"
        in subprocess.run(
            [sys.executable, "-m", "editlab.files.verify"], cwd=copied.root, capture_output=True, text=True, check=False
        ).stdout
    )


def _record_of(path: Path) -> set[Path]:
    return {record_of(path), record_of(path.parent)}


def test_a_damaged_file_that_planning_needs(copied):
    layers = copied.root / "results/layers/substrate/facts/layers.json"
    good = layers.read_bytes()
    layers.write_text("{")
    shutil.rmtree(copied.root / CELL.format("auto", 4, 0))
    target = CELL.format("auto", 4, 0) + "/metrics.csv"
    done = copied.run(target, check=False)
    assert done.returncode
    assert "layers.json: altered since it was made; rebuild with: " in done.stdout + done.stderr
    assert "a plain rerun makes it again" in done.stdout + done.stderr
    copied.run(target)
    assert layers.read_bytes() == good


# ---- disks ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_names_the_file_and_more_room_is_all_it_takes(fresh):
    results = fresh.root / "results"
    with mounted(results, "-t", "tmpfs", "-o", "size=48k", "tmpfs"):
        done = fresh.run(REQUESTS, check=False)
        assert done.returncode
        assert f"error: {REQUESTS}: cannot be written (No space left on device)" in done.stdout + done.stderr
        assert not [p for p in results.rglob("*") if p.is_file()]
        subprocess.run(["mount", "-o", "remount,size=8m", str(results)], check=True)
        fresh.run(REQUESTS)
        assert (results / "data/facts/requests.json").is_file()


def test_a_read_only_folder_is_one_line_before_any_job(fresh):
    results = fresh.root / "results"
    with mounted(results, "--bind", str(results)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(results)], check=True)
        done = fresh.run(REQUESTS, check=False)
        assert done.returncode
        (line,) = [line for line in lines(done) if "cannot be written" in line]
        assert line.startswith(
            "results: cannot be written (a read-only file system, or no permission); make it writable"
        )
        assert "Traceback" not in done.stdout + done.stderr


# ---- clocks --------------------------------------------------------------------------------------------------------


def test_a_result_made_anew_under_an_old_date_does_not_go_unnoticed(copied):
    contexts = copied.root / "results/contexts/substrate.json"
    record, date = load_provenance(record_of(contexts)), contexts.stat().st_mtime
    write_json(contexts, [["{}"], ["A new sentence. {}"]])
    record_outputs([contexts], {k: v for k, v in record.items() if k not in ("files", "versions")})
    os.utime(contexts, (date, date))
    assert copied.jobs(MATRIX) == {}  # a look changes nothing, but tells
    assert (
        f"{MATRIX}: out of date, results/contexts/substrate.json has changed since" in copied.run("-n", MATRIX).stderr
    )
    done = copied.run(REQUESTS)
    assert done.stderr.count("out of date, results/contexts/substrate.json has changed since") == 25
    assert copied.jobs(MATRIX) == {"edit_cell": 24, "collect_table": 1}


def test_results_from_the_future_are_brought_back(copied):
    for path in [copied.root / "results", *(copied.root / "results").rglob("*")]:
        status = path.stat()
        os.utime(path, (status.st_mtime + 7200, status.st_mtime + 7200))
    done = copied.run(MATRIX)
    assert "in the future, the clock has gone back; they are moved to the present" in done.stderr
    assert copied.job_counts(done) == {}
    assert max(p.stat().st_mtime for p in (copied.root / "results").rglob("*")) < time.time() + 1
    assert copied.jobs(MATRIX) == {}


# ---- elsewhere -----------------------------------------------------------------------------------------------------


def test_a_bundle_is_whole_in_another_folder(finished, fresh, tmp_path):
    def bundle(folder: Path, *arguments: str) -> str:
        command = [sys.executable, "-m", "editlab.files.bundle", *arguments]
        environment = os.environ | {"PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    archive = str(tmp_path / "results.tar.gz")
    bundle(finished.root, "create", archive, "--configfile", "tiny.yaml")
    assert "all as in the manifest" in bundle(fresh.root, "check", archive)
    bundle(fresh.root, "restore", archive, ".")
    assert fresh.jobs(MATRIX) == {}
    assert differences(fresh.root, finished.root, MATRIX) == []
    assert (fresh.root / "configuration/tiny.yaml").read_bytes() == finished.read("tiny.yaml")


# ---- what is read --------------------------------------------------------------------------------------------------


def test_tags_of_a_study_file_run_nothing(fresh):
    tag = "!!python/object/apply:os.system ['touch pwned']"
    (fresh.root / "evil.yaml").write_text(f"run: {tag}\n")
    done = fresh.run("-n", MATRIX, configfile="evil.yaml", check=False)
    assert done.returncode
    assert "not valid JSON or YAML" in done.stdout + done.stderr
    assert not (fresh.root / "pwned").exists()


# ---- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_do_not_depend_on_the_order_of_jobs(copied, finished, monkeypatch):
    """The last first, with another scheduler and another seed of Python's hashes."""
    cells = [CELL.format(method, 4, 0.3) for method in ("memit", "auto")]
    for cell in cells:
        shutil.rmtree(copied.root / cell)
    first, last = (f"{cell}/metrics.csv" for cell in cells)
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    copied.run(first, last, "--scheduler", "greedy", "--cores", "1", "--prioritize", last)
    assert (copied.root / last).stat().st_mtime < (copied.root / first).stat().st_mtime
    for cell in cells:
        for name in FILES:
            assert copied.read(f"{cell}/{name}") == finished.read(f"{cell}/{name}"), f"{cell}/{name}"
