"""A bundle is the same bytes for the same results, comes back whole elsewhere, and cannot write outside of its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from editlab.errors import ArtifactError
from editlab.files.artifacts import sha256, write_text
from editlab.files.bundle import FORMAT, LARGEST_MANIFEST, MANIFEST, check, create, main, restore
from editlab.files.provenance import origins, record_outputs
from editlab.files.verify import verify


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Results with a link in them, and a configuration."""
    monkeypatch.chdir(tmp_path)
    write_text("config.yaml", "study: mine\n")
    write_text("elsewhere/model.safetensors", "weights")
    Path("results/models/hub").mkdir(parents=True)
    Path("results/models/hub/model.safetensors").symlink_to(Path("elsewhere/model.safetensors").resolve())
    record_outputs(["results/models/hub"], {})
    write_text("results/known/a.csv", "case_id,known\n1,1\n")
    record_outputs(["results/known/a.csv"], origins(["results/models/hub"]))
    write_text("results/benchmarks/x.json", "{}")
    write_text("results/known/.a.csv.123.tmp", "half")
    write_text("results/old.csv.altered", "x")
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_there_and_back(study):
    create(Path("a.tar.gz"), configuration=[Path("config.yaml")])
    for path in Path("results").rglob("*.csv"):
        os.utime(path)
    create(Path("b.tar.gz"), configuration=[Path("config.yaml")])
    create(Path("c.tar"), configuration=[Path("config.yaml")])
    assert Path("a.tar.gz").read_bytes() == Path("b.tar.gz").read_bytes()
    assert gzip.decompress(Path("a.tar.gz").read_bytes()) == Path("c.tar").read_bytes()
    assert check(Path("a.tar.gz")) == check(Path("c.tar"))
    restore(Path("a.tar.gz"), Path("new"))
    found = tree(Path("new"))
    assert set(found) == {
        "configuration/config.yaml",
        "results/benchmarks/x.json",
        "results/known/a.csv",
        "results/.provenance/known/a.csv.json",
        "results/models/hub/model.safetensors",
        "results/.provenance/models/hub.json",
    }
    assert all(found[n] == (study / n).read_bytes() for n in found if not n.startswith("configuration"))
    assert not Path("new/results/models/hub/model.safetensors").is_symlink()
    assert len({p.stat().st_mtime_ns for p in Path("new/results").rglob("*")}) == 1
    assert verify(Path("new/results")).findings == []


def test_the_commands(study, capsys):
    assert main(["create", "a.tar.gz"]) == 0
    assert f"a.tar.gz: 6 files, sha256 {sha256('a.tar.gz')}" in capsys.readouterr().out
    assert main(["check", "a.tar.gz"]) == 0
    assert main(["restore", "a.tar.gz", "new"]) == 0
    assert "new: 6 files, 2 results" in capsys.readouterr().out
    assert main(["restore", "a.tar.gz", "new"]) == 1
    assert "new/results: is there already" in capsys.readouterr().err
    assert main(["check", "missing.tar"]) == 1
    assert capsys.readouterr().err == "error: missing.tar: no such file\n"
    assert main(["restore", "a.tar.gz", "config.yaml"]) == 1
    assert "config.yaml: cannot be written" in capsys.readouterr().err


def test_altered_results_are_not_shared(study):
    write_text("results/known/a.csv", "case_id,known\n1,0\n")
    with pytest.raises(ArtifactError, match=r"a\.csv: altered since it was made .*SET_ASIDE=1"):
        create(Path("a.tar"))
    assert not Path("a.tar").exists()


# ---- hostile archives ----------------------------------------------------------------------------------------------


def archive(members, files=None, manifest=None, first=True) -> Path:
    """An archive of (TarInfo or name, data); its manifest is honest about ``files`` unless given."""
    entries = []
    for name, data in members:
        entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
        if entry.isreg():
            entry.size = len(data)
        entries.append((entry, data))
    if files is None:
        files = {e.name: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for e, d in entries}
    text = json.dumps(manifest if manifest is not None else {"format": FORMAT, "files": files}).encode()
    head = tarfile.TarInfo(MANIFEST)
    head.size = len(text)
    entries.insert(0 if first else len(entries), (head, text))
    path = Path("evil.tar")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in entries:
            tar.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return path


def special(kind: bytes, target: str = "", name: str = "results/x") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


GOOD = ("results/a.csv", b"a\n")
NAMES = [
    "../x", "/etc/x", "results/../x", "results/../../x", "x", "results", "results/", "results//x", "./results/x",
    "results/./x", "results/.x", "results/.snakemake/x", ".snakemake/x", "results\\x", "results/..\\x", "C:/x", "results/a:b",
    "Snakefile", "editlab/x.py", "configuration/../Snakefile", "results/x\n", "results/\x1b[31m", "",
]  # fmt: skip
CHANGED = {GOOD[0]: {"sha256": hashlib.sha256(b"b\n").hexdigest(), "size": 2}}
EVIL = {
    "symbolic link": lambda: archive([(special(tarfile.SYMTYPE, "/etc/passwd"), b"")]),
    "link to a folder, then a file in it": lambda: archive(
        [(special(tarfile.SYMTYPE, "/tmp", "results/d"), b""), ("results/d/x", b"x")]
    ),
    "hard link": lambda: archive([GOOD, (special(tarfile.LNKTYPE, "results/a.csv"), b"")]),
    "pipe": lambda: archive([(special(tarfile.FIFOTYPE), b"")]),
    "device": lambda: archive([(special(tarfile.CHRTYPE), b"")]),
    "folder": lambda: archive([(special(tarfile.DIRTYPE), b"")]),
    "twice": lambda: archive([GOOD, GOOD]),
    "not in the manifest": lambda: archive([GOOD, ("results/b", b"")], files={}),
    "missing": lambda: archive([GOOD], files={**CHANGED, "results/b": CHANGED[GOOD[0]]}),
    "other content": lambda: archive([GOOD], files=CHANGED),
    "other size": lambda: archive([GOOD], files={GOOD[0]: {**CHANGED[GOOD[0]], "size": 3}}),
    "more than the disk": lambda: archive([GOOD], files={GOOD[0]: {**CHANGED[GOOD[0]], "size": 1 << 60}}),
    "manifest last": lambda: archive([GOOD], first=False),
    "manifest of another kind": lambda: archive([GOOD], manifest=[1]),
    "manifest of another format": lambda: archive([GOOD], manifest={"format": "x", "files": {}}),
    "files not a mapping": lambda: archive([GOOD], manifest={"format": FORMAT, "files": [GOOD[0]]}),
    "entry not a mapping": lambda: archive([GOOD], files={GOOD[0]: "x"}),
    "size not a number": lambda: archive([GOOD], files={GOOD[0]: {"sha256": "x", "size": True}}),
    "empty": lambda: archive([], manifest={}),
    "expressions": lambda: archive([("configuration/config.yaml", b"__use_yte__: true\n?print(1): 2\n")]),
    "tags": lambda: archive([("configuration/config.yaml", b"!!python/object/apply:os.system ['touch pwned']\n")]),
}


def refused(path: Path) -> str:
    before = tree(Path())
    with pytest.raises(ArtifactError) as caught:
        restore(path, Path("new"))
    assert tree(Path()) == before
    assert not Path("new").exists() or list(Path("new").iterdir()) == []
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("make", EVIL.values(), ids=EVIL)
def test_nothing_of_a_hostile_archive_is_restored(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    refused(make())


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(tmp_path, monkeypatch, name):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    refused(archive([(name, b"x")]))
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]


def test_a_good_archive_of_the_same_make_is_restored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    restore(archive([GOOD, ("configuration/config.yaml", b"study: x\n")]), Path("new"))
    assert set(tree(Path("new"))) == {"results/a.csv", "configuration/config.yaml"}
    with pytest.raises(ArtifactError, match="is there already"):
        restore(Path("evil.tar"), Path("new"))
    Path("link").mkdir()
    Path("link/results").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="is there already"):
        restore(Path("evil.tar"), Path("link"))
    assert LARGEST_MANIFEST > 1 << 20


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar"])
def test_truncated_and_flipped_archives_are_refused(study, name):
    create(Path(name), configuration=[Path("config.yaml")])
    data, rng = Path(name).read_bytes(), random.Random(1)
    content = len(data) if name.endswith("gz") else len(data.rstrip(b"\0"))
    accepted = 0
    for number in range(60):
        broken = bytearray(data)
        if number % 2:
            broken = broken[: rng.randrange(content)]
        else:
            broken[rng.randrange(content)] ^= 1 << rng.randrange(8)
        Path(name).write_bytes(broken)
        try:
            manifest = check(Path(name))
        except ArtifactError:
            continue
        accepted += 1  # a bit of padding or of gzip's own header
        restored = Path(f"new{number}")
        restore(Path(name), restored)
        assert {n: hashlib.sha256(d).hexdigest() for n, d in tree(restored).items()} == {
            n: facts["sha256"] for n, facts in manifest["files"].items()
        }
    assert accepted < 20
