"""Feed the readers of files with broken input: no exception may come out but the documented error types.

Inputs are drawn by hypothesis with fixed seeds: valid documents in which values were replaced, deleted, wrapped or moved,
and valid files in which bytes were flipped, cut out or put in. Provenance is also signed anew after the change, as somebody
who means harm would do. Every message must be one printable line. A failure is reduced to its smallest input, and ends the
run.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import functools
import io
import json
import logging
import os
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from editlab.analysis.edit.cells import cell_costs, cells_table
from editlab.analysis.report.run import Run
from editlab.config.run import check_files, load_run
from editlab.data import load_requests, make_facts
from editlab.errors import EditlabError
from editlab.files.artifacts import load_tensors, record_of, write_csv, write_provenance, write_text
from editlab.files.bundle import check, create, restore
from editlab.files.provenance import check_inputs, origins, outdated, record_outputs
from editlab.files.verify import verify

INPUTS = {
    "config": 26_000,
    "counterfact": 26_000,
    "zsre": 26_000,
    "provenance": 26_000,
    "bundle": 4_000,
    "tensors": 4_000,
}
CHUNK = 2_000  # inputs a seed: hypothesis remembers all that it tried
ROOT = Path(__file__).parents[1]
TEXTS = (
    "", " ", "{}", "{}{}", "{0}", "\x00", "\ud800", "\u2028", "\x1b[31m", "../../etc/passwd", "=1+1", "a" * 5000, "é{}",
    "nan", "1e999", "[[[", "!!python/object/apply:os.system", "__class__", "<script>", "\\input{x}", "auto", "%s", "\r\n",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**63, 10**400, -(10**30), 0.0, -0.0, 1e308, float("inf"), float("nan"), 5e-324)
BYTES = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{",
    b"[" * 3000,
    b'"\\ud800"',
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"\r",
    b"null",
)


@dataclasses.dataclass
class Tally:
    """What became of the inputs of one reader."""

    accepted: int = 0
    refused: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def inputs(self) -> int:
        return self.accepted + sum(self.refused.values())

    def count(self, read: Callable[[], object]) -> None:
        """Read once; anything but a documented error passes through."""
        try:
            read()
        except EditlabError as error:
            text = str(error)
            assert text, "an error without a message"
            assert text.isprintable(), f"not one printable line: {text!r}"
            self.refused[type(error).__name__] += 1
        else:
            self.accepted += 1


# ---- broken documents ----------------------------------------------------------------------------------------------

texts = st.integers(0, len(TEXTS) - 1).map(TEXTS.__getitem__)  # not sampled_from: a failure would print them all
numbers = st.integers(0, len(NUMBERS) - 1).map(NUMBERS.__getitem__)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.text(max_size=8))
values = st.one_of(
    scalars,
    scalars,
    st.just([]),
    st.just({}),
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, scalars, max_size=2),
    st.sampled_from([20, 200]).map(lambda depth: functools.reduce(lambda inner, _: [inner], range(depth), 0)),
)
yaml_values = (
    values | st.just(datetime.date(2026, 1, 1)) | st.dictionaries(st.integers(0, 3) | st.none(), scalars, max_size=2)
)


def places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of every value in a document."""
    found, stack = [], [document]
    while stack:
        container = stack.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                stack.append(container[key])
    return found


@st.composite
def broken(draw: Any, valid: Any, replacements: Any = values) -> Any:
    """A valid document with one to three changes."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        spots = places(document)
        if not spots:
            return document
        container, key = spots[draw(st.integers(0, len(spots) - 1))]
        change = draw(st.sampled_from(("replace", "replace", "delete", "wrap", "add", "swap")))
        if change == "replace":
            container[key] = draw(replacements)
        elif change == "delete":
            del container[key]
        elif change == "wrap":
            container[key] = [container[key]]
        elif change == "add" and isinstance(container, dict):
            container[draw(texts)] = draw(replacements)
        elif change == "swap":
            other, place = spots[draw(st.integers(0, len(spots) - 1))]
            container[key] = copy.deepcopy(other[place])
    return document


@st.composite
def broken_bytes(draw: Any, valid: bytes) -> bytes:
    """A valid file with one to four places flipped, cut out or put in."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(("flip", "cut", "end", "put")))
        if change == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[place : place + draw(st.integers(1, 40))]
        elif change == "end":
            del data[place:]
        else:
            data[place:place] = BYTES[draw(st.integers(0, len(BYTES) - 1))]
    return bytes(data)


def dumped(document: Any) -> bytes:
    """JSON as Python writes it, with NaN and halves of surrogate pairs."""
    return json.dumps(document).encode()


def files_of(document: list[Any]) -> Any:
    """Broken JSON files of records."""
    return broken(document).map(dumped) | broken_bytes(dumped(document)) | st.binary(max_size=30) | values.map(dumped)


# ---- readers -------------------------------------------------------------------------------------------------------


def fuzz_config(tally: Tally, folder: Path) -> tuple[Any, Callable[[Any], None]]:
    """The study as YAML gives it: :func:`editlab.config.run.load_run`."""
    study = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    study["edit"]["sweep"] = {"axes": {"memit": {"clamp": [1, 2]}}}
    study["edit"]["datasets"]["mine"] = {
        "kind": "counterfact",
        "path": str(folder / "no.json"),
        "url": "https://a.example/x",
    }
    study["edit"]["datasets"]["mine"]["sha256"] = "0" * 64
    study["edit"]["models"]["hub"] = {"source": "hub", "id": "a/b", "dtype": "float32"}

    def read(values: Any) -> None:
        tally.count(lambda: check_files(load_run(values)))

    return broken(study, yaml_values) | yaml_values, read


def fuzz_counterfact(tally: Tally, folder: Path) -> tuple[Any, Callable[[Any], None]]:
    """CounterFact's records and EasyEdit's: :func:`editlab.data.load_requests`."""
    official = [r.to_record() for r in make_facts(48, 1)[:2]]
    official[1]["neighborhood_prompts"] = [{"prompt": "Ann is from", "target": "Rome"}]
    easy = {
        "prompt": "Ann is from", "subject": "Ann", "target_new": "Rome", "ground_truth": ["Oslo"], "rephrase_prompt": "Ann",
        "locality_prompt": "Bo is from", "locality_ground_truth": "Bern",
    }  # fmt: skip
    path = folder / "records.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        kind = ("auto", "counterfact", "easyedit")[len(data) % 3]
        tally.count(lambda: load_requests(path, kind, skip_invalid=len(data) % 2 == 0))

    return files_of(official) | files_of([easy, {**easy, "case_id": 7}]), read


def fuzz_zsre(tally: Tally, folder: Path) -> tuple[Any, Callable[[Any], None]]:
    """zsRE in the MEND schema: :func:`editlab.data.load_requests`."""
    record = {
        "subject": "Ann", "src": "Where is Ann from?", "rephrase": "Ann's home?", "loc": "nq question: who is it",
        "loc_ans": "Bo", "answers": ["Rome"], "pred": "Oslo", "alt": "Bern", "case_id": 3,
    }  # fmt: skip
    path = folder / "records.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        tally.count(lambda: load_requests(path, "zsre", skip_invalid=len(data) % 2 == 0))

    return files_of([record, {**record, "case_id": 4, "subject": "Where"}]), read


def fuzz_provenance(tally: Tally, folder: Path) -> tuple[Any, Callable[[Any], None]]:
    """Provenance of a cell, its readers, and those who compare: as bytes, and signed after the change."""
    os.chdir(folder)
    cell = Path("results/edit/cell")
    write_text("results/in.json", "1\n")
    record_outputs(["results/in.json"], {})
    write_csv(cell / "metrics.csv", _metrics())
    write_csv(cell / "curve.csv", _curve())
    seconds = {"load": {"wall": 1.0, "cpu": 1.0}}
    facts = {
        **origins(["results/in.json"]),
        "seconds": seconds,
        "edits": 8,
        "peak_memory_mb": 1.0,
        "code": "watchdog:0",
    }
    write_provenance(cell, facts, ["metrics.csv", "curve.csv"])
    path = record_of(cell)
    valid = path.read_bytes()
    document = json.loads(valid)

    def read(data: Any) -> None:
        path.write_bytes(data if isinstance(data, bytes) else dumped(_signed(data)))
        readers: tuple[Callable[[], object], ...] = (
            lambda: check_inputs([cell / "metrics.csv"]),
            lambda: cell_costs(cell),
            lambda: cells_table(Run("y", {}, {"edit": [(str(cell), {"method": "x"})]}), with_costs=True),
            lambda: (verify(progress=False), outdated()),
        )
        tally.count(readers[len(str(data)) % len(readers)])

    clean = values.filter(lambda v: "\ud800" not in str(v))  # such text cannot be written at all
    return broken_bytes(valid) | st.binary(max_size=30) | broken(document, clean).filter(_encodes), read


def _encodes(document: Any) -> bool:
    return "\\ud800" not in json.dumps(document)


def _signed(document: Any) -> Any:
    from editlab.files.artifacts import own_checksum

    if not isinstance(document, dict):
        return document
    document = {k: v for k, v in document.items() if k != "checksum"}
    return {**document, "checksum": own_checksum(json.loads(json.dumps(document)))}


def _metrics() -> Any:
    import pandas as pd

    row = {"when": "final", "protocol": "success", "metric": "ES", "value": 0.5, "ci_low": 0.1, "ci_high": 0.9, "n": 8}
    return pd.DataFrame([row])


def _curve() -> Any:
    import pandas as pd

    return pd.DataFrame([{"edits_seen": 8, "metric": "delta_norm_0", "value": 1.0}])


def fuzz_bundle(tally: Tally, folder: Path) -> tuple[Any, Callable[[Any], None]]:
    """Archives of results: :func:`editlab.files.bundle.check` and :func:`restore`."""
    os.chdir(folder)
    write_text("results/in.json", "1\n")
    record_outputs(["results/in.json"], {})
    create(Path("good.tar"))
    create(Path("good.tar.gz"))
    with tarfile.open("good.tar") as tar:
        members = [(entry.name, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]
    manifest = json.loads(members[0][1])

    def packed(document: Any) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, data in [("manifest.json", dumped(document)), *members[1:]]:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return stream.getvalue()

    number = iter(range(10**9))

    def read(data: bytes) -> None:
        Path("broken.tar").write_bytes(data)
        target = Path(f"to/{next(number)}")
        tally.count(lambda: restore(Path("broken.tar"), target) if len(data) % 2 else check(Path("broken.tar")))

    files = [Path(name).read_bytes() for name in ("good.tar", "good.tar.gz")]
    return broken_bytes(files[0]) | broken_bytes(files[1]) | broken(manifest).map(packed) | st.binary(
        max_size=600
    ), read


def fuzz_tensors(tally: Tally, folder: Path) -> tuple[Any, Callable[[Any], None]]:
    """Edits and statistics as safetensors: :func:`load_tensors`, ``Edit.load``, :func:`load_statistics`."""
    import torch

    from editlab.algebra.problem import Factors
    from editlab.algebra.second_moment import SecondMoment
    from editlab.edits.edit import Edit
    from editlab.moments.stored import load_statistics, save_statistics

    path = folder / "x.safetensors"
    Edit({0: Factors(torch.ones(3, 1), torch.ones(1, 4))}, {"solver": "memit"}).save(path)
    edit = path.read_bytes()
    save_statistics(path, 0, SecondMoment(torch.eye(3, dtype=torch.float64), 10))
    moments = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        tally.count(lambda: (load_tensors, Edit.load, load_statistics)[len(data) % 3](path))

    return broken_bytes(edit) | broken_bytes(moments) | st.binary(max_size=60), read


READERS = {
    "config": fuzz_config,
    "counterfact": fuzz_counterfact,
    "zsre": fuzz_zsre,
    "provenance": fuzz_provenance,
    "bundle": fuzz_bundle,
    "tensors": fuzz_tensors,
}


def fuzz(name: str, inputs: int) -> Tally:
    """Give one reader ``inputs`` broken inputs.

    Raises:
        AssertionError, or whatever else came out of the reader: with the smallest input that does it, in the notes.
    """
    tally, home = Tally(), Path.cwd()
    memory = Path("/dev/shm")  # a disk would be what is measured
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        try:
            strategy, read = READERS[name](tally, Path(folder))
            for start in range(0, inputs, CHUNK):
                options = settings(
                    max_examples=min(CHUNK, inputs - start),
                    deadline=None,
                    database=None,
                    phases=(Phase.generate, Phase.shrink),
                    suppress_health_check=list(HealthCheck),
                    verbosity=Verbosity.quiet,
                )
                seed(start)(options(given(strategy)(read)))()
        finally:
            os.chdir(home)
    return tally


def run(quick: bool) -> dict[str, Any]:
    """All readers; 2,000 inputs in all when ``quick``."""
    found: dict[str, Any] = {}
    logger = logging.getLogger("editlab")
    level = logger.level
    logger.setLevel(logging.ERROR)  # records left out of a file are logged, thousands of times here
    try:
        for name, inputs in INPUTS.items():
            started = time.process_time()
            tally = fuzz(name, inputs // 56 if quick else inputs)
            found[name] = {
                "inputs": tally.inputs,
                "accepted": tally.accepted,
                "refused": dict(sorted(tally.refused.items())),
                "cpu_seconds": round(time.process_time() - started, 1),
            }
    finally:
        logger.setLevel(level)
    return {"readers": found, "inputs": sum(reader["inputs"] for reader in found.values()), "other_exceptions": 0}
