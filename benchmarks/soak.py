"""Kill a run at seeded random moments, start it again each time, and compare what it ends with: ``make soak``.

Three kinds of ``kill -9`` take turns in a seeded order: *everything* (all processes of the run at once: the plug is
pulled), *snakemake* (the jobs must notice, and end), *job* (one process of a job). After each the same plain command is
started again: no ``--unlock``, no clean-up by hand. At the end the target and every file of every cell must be those of an
undisturbed run byte for byte, and no result may ever differ from its provenance.

Moments are drawn over the whole run: a kill waits for a random number of finished jobs, then a random time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.names import RESULTS
from benchmarks.workflow import copy_workflow
from editlab.files.artifacts import record_of
from editlab.files.verify import Finding, verify

KINDS = ("everything", "snakemake", "job")
MARK = "EDITLAB_SOAK"  # environment variable by which all processes of a run are found
STEPS = re.compile(r"(\d+) of (\d+) steps")
PARTING = 120.0  # seconds until every process of a killed run must be gone; a worker in the midst of its imports ends after them
TAKEN = 4  # cells that are taken away where a run was faster than the kills
LIMIT = 7200.0  # seconds after which a single start counts as hung


@dataclasses.dataclass(frozen=True)
class Command:
    """A folder with the workflow, and the command that is given again and again.

    Attributes:
        folder: a copy of the workflow.
        target: the file that is asked for.
        options: further arguments of Snakemake.
    """

    folder: Path
    target: str = "results/ablation_matrix.csv"
    cores: int = 2
    options: tuple[str, ...] = ()

    def start(self, mark: str) -> Start:
        command = [sys.executable, "-m", "snakemake", "--nocolor", "--cores", str(self.cores), self.target]
        environment = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", MARK: mark}
        process = subprocess.Popen(
            [*command, *self.options],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        return Start(process, mark)


class Start:
    """One start of the command: what it printed, and how many jobs are left of it."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.process, self.mark = process, mark
        self.lines: list[str] = []
        self.done, self.planned = 0, 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := STEPS.search(line):
                self.done, self.planned = int(found[1]), int(found[2])
            elif line.startswith("total "):
                self.planned = int(line.split()[1])

    @property
    def left(self) -> int | None:
        """Jobs that are not finished; None before the plan is known."""
        return self.planned - self.done if self.planned else None

    def running(self) -> list[str]:
        """Titles of the jobs that were started and not finished."""
        started: dict[str, str] = {}
        for line in self.lines:
            if found := re.match(r"Job (\d+): (.*)", line):
                started[found[1]] = found[2]
            elif found := re.match(r"Finished jobid: (\d+)", line):
                started.pop(found[1], None)
        return list(started.values())

    def family(self) -> list[int]:
        """Processes of this start other than Snakemake itself."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return sorted(set(found) - {self.process.pid, os.getpid()})

    def kill(self, kind: str, rng: random.Random) -> None:
        """``kill -9`` of one kind, and the end of what belongs to it."""
        if kind == "job" and (family := self.family()):
            _kill(rng.choice(family))
        else:
            _kill(self.process.pid)
            for process in self.family() if kind == "everything" else ():
                _kill(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=LIMIT)

    def survivors(self, seconds: float) -> list[int]:
        """Processes that are still there after ``seconds`` at most."""
        end = time.monotonic() + seconds
        while (left := self.family()) and time.monotonic() < end:
            time.sleep(0.2)
        return left


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def soak(command: Command, kills: int, seed: int, mean: float = 8.0) -> dict[str, Any]:
    """Start, kill and start again until ``kills`` kills are done, then let it finish.

    Args:
        mean: of the seconds between the awaited number of finished jobs and the kill.

    Returns: what happened; ``damaged`` counts results that differed from their provenance after any kill.

    Raises:
        RuntimeError: a plain start after the kills does not finish.
    """
    rng = random.Random(seed)
    total: int | None = None
    thresholds: list[int] = []
    done: list[dict[str, Any]] = []
    damaged: list[str] = []
    outlived, started = 0, time.monotonic()
    while len(done) < kills:
        run = command.start(uuid.uuid4().hex)
        while run.left is None and run.process.poll() is None:
            time.sleep(0.05)
        if total is None:
            total = run.left or 1
            thresholds = sorted(rng.randrange(total) for _ in range(kills))
        moment = min(rng.expovariate(1 / mean), 8 * mean)
        while run.process.poll() is None and total - (run.left or 0) < thresholds[len(done)]:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(timeout=moment)
        if run.left == 0:
            run.process.wait(timeout=LIMIT)  # too late to disturb anything
        if run.process.poll() is not None:
            run.reader.join(10)
            if run.process.returncode:
                raise RuntimeError("a plain start failed:\n" + "\n".join(run.lines[-40:]))
            _unfinish(command, rng)
            continue
        kind = KINDS[len(done) % len(KINDS)] if len(done) < len(KINDS) else rng.choice(KINDS)
        busy, left = run.running(), run.left
        run.kill(kind, rng)
        outlived += len(run.survivors(PARTING))
        found = _verified(command)
        damaged += [f"after kill {len(done) + 1}: {f.path}: {f.reason}" for f in found if f.kind == "altered"]
        done.append({"kind": kind, "finished": total - (left or 0), "running": busy})
        print(f"kill {len(done)} of {kills}: {kind}, {left} jobs left, {', '.join(busy) or 'no job'}", file=sys.stderr)
    run = command.start(uuid.uuid4().hex)
    run.process.wait(timeout=LIMIT)
    run.reader.join(10)
    if run.process.returncode:
        raise RuntimeError("the last start failed:\n" + "\n".join(run.lines[-40:]))
    run.survivors(PARTING)
    return {
        "kills": done,
        "jobs": total,
        "damaged": len(damaged),
        "damaged_files": damaged,
        "outlived": outlived,
        "unlike_provenance": len(_verified(command)),
        "seconds": round(time.monotonic() - started, 1),
    }


def _verified(run: Command) -> list[Finding]:
    """What differs from its record; the paths in it are relative to the folder. A record outlives what a kill took away."""
    with contextlib.chdir(run.folder):
        return [f for f in verify(Path("results"), progress=False).findings if f.kind != "orphaned"]


def _unfinish(run: Command, rng: random.Random) -> None:
    """The run was faster than the kills: take the target and a few cells away, so that there is something left to disturb."""
    target = run.folder / run.target
    cells = sorted(p.parent for p in (target.parent / "edit").rglob("metrics.csv"))
    for taken in (target, *rng.sample(cells, min(TAKEN, len(cells)))):
        record_of(taken).unlink(missing_ok=True)
        shutil.rmtree(taken) if taken.is_dir() else taken.unlink(missing_ok=True)


def differences(one: Path, other: Path, target: str) -> list[str]:
    """The target and the files of cells that are not the same, byte for byte, in two folders of results."""
    names = {target}
    for folder in (one, other):
        for metrics in (folder / target).parent.joinpath("edit").rglob("metrics.csv"):
            cell = metrics.parent.relative_to(folder)
            names |= {
                str(cell / n) for n in ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors")
            }
    return sorted(n for n in names if _bytes(one / n) != _bytes(other / n))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Run the soak in temporary folders; the exit status is 1 unless everything is as in the undisturbed run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mean", type=float, default=8.0, help="mean seconds between a finished job and a kill")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--target", default="results/ablation_matrix.csv")
    parser.add_argument("--configfile", type=Path, help="a run laid over config.yaml")
    parser.add_argument("--undisturbed", type=Path, help="folder with results of an undisturbed run of this very code")
    parser.add_argument("--directory", type=Path, default=RESULTS, help="where soak.json goes")
    chosen = parser.parse_args(arguments)
    from benchmarks.common import write

    options = ("--configfile", str(chosen.configfile.resolve())) if chosen.configfile else ()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        undisturbed, reference = chosen.undisturbed, 0.0
        if undisturbed is None:
            undisturbed = copy_workflow(Path(name, "undisturbed"))
            begun = time.monotonic()
            run = Command(undisturbed, chosen.target, chosen.cores, options).start(uuid.uuid4().hex)
            if run.process.wait():
                raise RuntimeError("the undisturbed run failed:\n" + "\n".join(run.lines[-40:]))
            reference = time.monotonic() - begun
        disturbed = copy_workflow(Path(name, "disturbed"))
        found = soak(
            Command(disturbed, chosen.target, chosen.cores, options), chosen.kills, chosen.seed, mean=chosen.mean
        )
        found |= {"differences": differences(disturbed, undisturbed, chosen.target), "seed": chosen.seed}
        found |= {"target": chosen.target, "undisturbed_seconds": round(reference, 1)}
    print(write("soak", found, chosen.directory), file=sys.stderr)
    bad = found["differences"] or found["damaged"] or found["outlived"] or found["unlike_provenance"]
    for path in found["differences"]:
        print(f"differs: {path}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
