"""What every script of the workflow shares: inputs are checked, outputs recorded, a job ends in time and with its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from editlab.files.artifacts import load_provenance, record_of, write_json, write_text
from editlab.files.provenance import record_outputs

ROOT = Path(__file__).parents[2]
HEAD = """
from types import SimpleNamespace as N
from common import job
class Names(list):  # like Snakemake's lists with names
    def __init__(self, values=(), **named):
        super().__init__([*values, *named.values()]); self.named = named
    def items(self): return self.named.items()
    def get(self, name, default=None): return self.named.get(name, default)
snakemake = N(rule="edit_cell", wildcards=Names(method="memit", seed="1"), threads=1, log=Names(["logs/a.log"]),
    input=Names(INPUT), output=Names(["results/out.json"]),
    params=Names(code="watchdog:0", x=1), resources=Names(runtime=RUNTIME))
"""


PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT / "workflow_scripts"), str(ROOT)])}


def write_script(folder: Path, body: str, runtime: object = 5, inputs: tuple[str, ...] = ()) -> None:
    head = HEAD.replace("RUNTIME", repr(runtime)).replace("INPUT", repr(list(inputs)))
    (folder / "script.py").write_text(head + textwrap.dedent(body))


def job(folder: Path, body: str, **options) -> subprocess.Popen[str]:
    """A process that runs ``body`` as a script of the workflow."""
    write_script(folder, body, **options)
    command = [sys.executable, "script.py"]
    return subprocess.Popen(command, cwd=folder, env=os.environ | PATHS, stderr=subprocess.PIPE, text=True)


WRITES = """
with job(snakemake):
    from editlab.files.artifacts import write_json
    write_json("results/out.json", {"x": 1})
"""


def test_an_output_gets_its_provenance(tmp_path):
    write_text(tmp_path / "data.json", "[]")
    process = job(tmp_path, WRITES, inputs=("data.json",))
    assert process.communicate(timeout=60) == (None, "")
    record = load_provenance(record_of(tmp_path / "results/out.json"))
    assert record["rule"] == "edit_cell"
    assert record["wildcards"] == {"method": "memit", "seed": "1"}
    assert record["params"] == {"x": 1}
    assert record["code"] == "watchdog:0"
    assert set(record["inputs"]) == {"data.json"}


@pytest.mark.parametrize("damage", ["altered", "outdated"])
def test_a_bad_input_ends_the_job_and_a_rerun_will_make_it_again(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    write_json("results/in.json", 1)
    write_json("results/before.json", 1)
    record_outputs(["results/before.json"], {})
    record_outputs(["results/in.json"], {"inputs": {"results/before.json": "0" * 64} if damage == "outdated" else {}})
    if damage == "altered":
        Path("results/in.json").write_text("2\n")
    process = job(tmp_path, WRITES, inputs=("results/in.json",))
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert text.startswith("error: results/in.json: ")
    assert "a plain rerun makes it again" in text
    assert "Traceback" not in text
    log = Path("logs/a.log").read_text()
    assert 'failed: edit_cell method=memit seed=1; parameters: {"code": "watchdog:0", "x": 1}' in log
    assert not Path("results/out.json").exists()
    if damage == "altered":
        assert Path("results/in.json.altered").read_text() == "2\n"
        assert not Path("results/in.json").exists()
    else:
        assert Path("results/in.json").stat().st_mtime < 1e6


def test_a_full_disk_is_told_though_the_log_is_on_it(tmp_path):
    limit = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # no file may grow, as on a full disk
    )
    process = job(tmp_path, limit + WRITES)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert text == "error: results/out.json: cannot be written (File too large)\n"
    assert [p.name for p in (tmp_path / "results").iterdir()] == []


HANGS = {
    "sleeps": "    import time; time.sleep(60)",
    "computes without letting go of the interpreter": "    import re; re.match('(a|a)*b', 'a' * 40)",
}


@pytest.mark.parametrize("body", HANGS.values(), ids=HANGS)
def test_a_job_that_hangs_is_ended_with_its_name_and_what_to_do(tmp_path, body):
    started = time.monotonic()
    body = f"import watchdog; watchdog.GRACE = 0.5\nwith job(snakemake):\n{body}"
    process = job(tmp_path, body, runtime=0.01)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert time.monotonic() - started < 30
    log = (tmp_path / "logs/a.log").read_text()
    if "sleep" in body:
        assert "edit_cell method=memit seed=1: still running after 0.01 minutes" in text
        assert "resources.edit_cell.runtime in the configuration" in log
    assert "script.py" in log  # where it was


def started_by_snakemake(folder: Path, command: str, seconds: float) -> subprocess.Popen[str]:
    """A terminal in which a process that plays Snakemake has a job that has begun, and sleeps, and writes."""
    body = WRITES.replace("    from", f"    print('ready', flush=True); import time; time.sleep({seconds})\n    from")
    write_script(folder, body)
    code = f"""
        import os, shlex, subprocess
        os.environ["EDITLAB_SNAKEMAKE"] = str(os.getpid())
        open("snakemake.pid", "w").write(str(os.getpid()))
        subprocess.call(shlex.split({command!r}))
    """
    (folder / "snakemake.py").write_text(textwrap.dedent(code))
    terminal = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} snakemake.py & read"],
        cwd=folder,
        env=os.environ | PATHS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert terminal.stdout is not None
    assert terminal.stdout.readline() == "ready\n"
    return terminal


STARTED = [f"bash -c '{sys.executable} script.py; true'", f"{sys.executable} script.py"]


@pytest.mark.parametrize("command", STARTED, ids=["behind a shell", "directly"])
def test_a_job_ends_when_its_snakemake_has_died(tmp_path, command):
    """Also behind the shell that outlives it."""
    terminal = started_by_snakemake(tmp_path, command, seconds=60)
    os.kill(int((tmp_path / "snakemake.pid").read_text()), signal.SIGKILL)
    text = terminal.communicate(timeout=20)[1]  # the pipe closes when the job and its shell are gone
    assert "the Snakemake that started it has died" in text


@pytest.mark.parametrize("command", STARTED, ids=["behind a shell", "directly"])
def test_a_job_goes_on_when_the_terminal_is_closed(tmp_path, command):
    """What is above Snakemake may end: nohup, and a log-out."""
    terminal = started_by_snakemake(tmp_path, command, seconds=3)
    text = terminal.communicate(timeout=20)[1]  # its input is closed, it ends; then the pipe, when the job is gone
    assert text == ""
    assert (tmp_path / "results/out.json").exists()


def test_a_job_that_starts_after_the_death_of_its_snakemake_ends(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setenv("EDITLAB_SNAKEMAKE", str(dead.pid))
    process = job(tmp_path, "with job(snakemake):\n    import time; time.sleep(60)")
    text = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "the Snakemake that started it has died" in text


def test_a_log_does_not_write_through_a_link(tmp_path):
    write_text(tmp_path / "precious", "mine")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.log").symlink_to(tmp_path / "precious")
    process = job(tmp_path, WRITES)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert json.loads((tmp_path / "results/out.json").read_text()) == {"x": 1}
