"""Nothing that is read can run code, nothing is fetched but over https, nothing is written through a link."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
import urllib3
from tiny import tiny_model

from editlab.config.preparation import HubText
from editlab.data import download, hub, load_requests, read_text
from editlab.data.corpus import read_known
from editlab.edits.edit import Edit
from editlab.errors import ArtifactError, DataError, EditlabError, ModelError
from editlab.files.artifacts import (
    atomic_path,
    load_tensors,
    read_provenance,
    record_of,
    replace_directory,
    save_tensors,
    write_text,
)
from editlab.moments.stored import load_statistics
from editlab.networks.fetching import SOURCE, check_blob, fetch
from editlab.networks.loading import load_model

ROOT = Path(__file__).parents[1]


class Payload:
    """What a pickle would do on being read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def lookalikes(folder: Path, mark: Path) -> dict[str, Path]:
    """Files of the kinds that run code in careless hands."""
    pickled = pickle.dumps(Payload(mark))
    array = np.array([Payload(mark)], dtype=object)
    made = {name: folder / name for name in ("a.pkl", "a.npy", "a.npz", "a.pt", "a.zip", "a.yaml", "a.safetensors")}
    made["a.pkl"].write_bytes(pickled)
    np.save(made["a.npy"], array, allow_pickle=True)
    np.savez(made["a.npz"], a=array)
    torch.save({"a": Payload(mark)}, made["a.pt"])
    with zipfile.ZipFile(made["a.zip"], "w") as archive:
        archive.writestr("data.pkl", pickled)
    made["a.yaml"].write_text(
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n"
    )
    made["a.safetensors"].write_bytes(pickled)
    return made


def test_the_payload_is_live(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "pwned")))
    assert (tmp_path / "pwned").exists()


READERS = [
    load_requests, read_text, read_known, load_tensors, Edit.load, load_statistics, load_model,
    lambda path: read_provenance(path.parent),
]  # fmt: skip


def _with_records(folder: Path) -> Path:
    """A result whose record is the lookalike: the folder, below one that has records."""
    (folder.parent / ".provenance").mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("read", READERS, ids=lambda r: getattr(r, "__qualname__", "reader"))
@pytest.mark.parametrize("name", ["a.pkl", "a.npy", "a.npz", "a.pt", "a.zip", "a.yaml", "a.safetensors"])
def test_a_file_that_would_run_code_is_refused_or_plain_text(tmp_path, read, name):
    mark = tmp_path / "pwned"
    path = lookalikes(tmp_path, mark)[name]
    shutil.copy(path, record_of(_with_records(tmp_path)))
    if read is read_text and name == "a.yaml":
        assert len(read(path)) == 1  # text is text
    else:
        with pytest.raises(EditlabError) as caught:
            read(path)
        assert str(caught.value).isprintable()
    assert not mark.exists()


@pytest.fixture
def directory(tmp_path):
    """A small model directory."""
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_code_that_lies_in_a_model_directory_is_not_run(directory, tmp_path):
    mark = tmp_path / "pwned"
    for name in ("modeling_mine", "configuration_mine", "tokenization_mine"):
        (directory / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\nclass Mine: pass\nclass MineFast: pass\n")
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate" / "generate.py").write_text(
        f"open({str(mark)!r}, 'w')\ndef generate(*a, **k): pass\n"
    )
    own = {"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"}
    change(directory / "config.json", auto_map=own)
    change(
        directory / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_mine.Mine", "tokenization_mine.MineFast"]},
    )
    model = load_model(directory)  # a known family: its code is that of transformers
    assert type(model).__module__.startswith("transformers.")
    assert type(model.tokenizer).__module__.startswith(("transformers.", "tokenizers."))
    assert not mark.exists()
    change(directory / "config.json", model_type="mine", architectures=["Mine"])
    with pytest.raises(ModelError):
        load_model(directory)
    assert not mark.exists()


def test_pickled_weights_are_never_opened(directory, tmp_path):
    mark = tmp_path / "pwned"
    (directory / "model.safetensors").unlink()
    torch.save({"w": Payload(mark)}, directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights"):
        load_model(directory)
    (directory / "model.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(directory)
    assert not mark.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(directory, value):
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = value
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model: parameter \S+ holds NaN or infinite values"):
        load_model(directory)


def sources() -> list[Path]:
    return [p for part in ("editlab", "workflow_scripts", "benchmarks") for p in sorted((ROOT / part).rglob("*.py"))]


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_no_call_that_runs_what_it_reads(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword):
            assert node.arg != "shell", "a command goes without a shell"
            if node.arg in ("trust_remote_code", "allow_pickle"):
                assert isinstance(node.value, ast.Constant)
                assert node.value.value is False
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "os.system", "os.popen", "torch.load", "yaml.load"}, called
            assert not re.fullmatch(r"(pickle|dill|marshal|shelve|joblib)\..*|yaml\.(unsafe|full)_load", called), called
            if called in {"np.load", "numpy.load"}:
                assert any(k.arg == "allow_pickle" for k in node.keywords)


def test_no_rule_hands_data_to_a_shell():
    for file in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]:
        text = file.read_text(encoding="utf-8")
        assert "trust_remote_code" not in text
        for command in re.findall(r"^    shell:\n((?:        .*\n)+)", text, re.M):
            for name in re.findall(r"{(\w[^}]*)}", command):
                assert name.split(".")[0].split(":")[0] in {
                    "input",
                    "output",
                    "log",
                    "threads",
                    "params",
                    "resources",
                }, name


# ---- writing -------------------------------------------------------------------------------------------------------


def test_an_output_that_is_a_link_is_replaced_not_followed(tmp_path):
    write_text(tmp_path / "precious", "mine")
    (tmp_path / "out.json").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "out.json", "new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out.json").is_symlink()
    (tmp_path / "folder").mkdir()
    write_text(tmp_path / "folder/precious", "mine")
    (tmp_path / "model").symlink_to(tmp_path / "folder")
    with replace_directory(tmp_path / "model") as folder:
        write_text(folder / "a", "1")
    assert (tmp_path / "folder/precious").read_text() == "mine"
    (tmp_path / "x.safetensors").symlink_to(tmp_path / "precious")
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_temporary_name_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(20):
        with atomic_path(tmp_path / "a") as temporary:
            names.add(temporary.name)
            assert temporary.stat().st_mode & 0o077 == 0
    assert len(names) == 20


# ---- fetching ------------------------------------------------------------------------------------------------------


class Server(requests.adapters.HTTPAdapter):
    """Answers instead of the network; all that requests and pooch do with an answer stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.asked: list[str] = []

    def send(self, request, **_):
        self.asked.append(request.url)
        if request.url not in self.answers:
            raise requests.ConnectionError("unreachable\nhost")
        status, data, headers = self.answers[request.url]
        body = urllib3.HTTPResponse(
            io.BytesIO(data), headers, status, preload_content=False, request_method="GET", enforce_content_length=True
        )
        return self.build_response(request, body)


@pytest.fixture
def server(monkeypatch):
    found = Server()
    monkeypatch.setattr(requests.Session, "get_adapter", lambda self, url: found)
    return found


@pytest.mark.parametrize("algorithm", [hashlib.md5, hashlib.sha256])
def test_a_download_needs_its_checksum(tmp_path, server, algorithm):
    data = b"[1]"
    digest = algorithm(data).hexdigest()
    server.answers = {
        "https://a.example/x": (200, data, {"Content-Length": "3"}),
        "https://a.example/other": (200, b"[2]", {}),
        "https://a.example/cut": (200, data, {"Content-Length": "10"}),
        "https://a.example/nonsense": (200, data, {"Content-Length": "many"}),
        "https://a.example/gone": (404, b"", {}),
    }
    download.download("https://a.example/x", tmp_path / "x", digest)
    assert (tmp_path / "x").read_bytes() == data
    download.check_file(tmp_path / "x", digest)
    for name, message in {
        "other": rf"other: {algorithm().name} is \w+, expected {digest}",
        "cut": r"cut: cannot be downloaded \(.*IncompleteRead",
        "nonsense": r"nonsense: cannot be downloaded",
        "gone": r"gone: cannot be downloaded \(404",
        "none": r"none: cannot be downloaded \(unreachable",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            download.download(f"https://a.example/{name}", tmp_path / "y", digest)
        assert str(caught.value).isprintable()
    for bad in ("", "0" * 40, "x" * 64):
        with pytest.raises(DataError, match=r"neither an md5 nor a sha256|expected xxx"):
            download.download("https://a.example/x", tmp_path / "y", bad)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_download_that_cannot_be_written_names_the_file(tmp_path, server):
    server.answers["https://a.example/x"] = (200, b"1", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="file/x: cannot be written"):
        download.download("https://a.example/x", tmp_path / "file" / "x", "0" * 32)


def test_a_download_that_never_ends_is_cut_off(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 10)
    monkeypatch.setattr(download, "CHUNK", 4)
    server.answers["https://a.example/x"] = (200, b"0" * 100, {})
    with pytest.raises(DataError, match="larger than 10 bytes"):
        download.download("https://a.example/x", tmp_path / "x", "0" * 64)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(download, "LARGEST", 100)
    with pytest.raises(DataError, match="sha256 is"):  # a file of the largest size arrives
        download.download("https://a.example/x", tmp_path / "x", "0" * 64)


ELSEWHERE = ["http://a.example/x", "file:///etc/passwd", "ftp://a.example/x", "HTTP://A/x"]


@pytest.mark.parametrize("url", [*ELSEWHERE, "/etc/passwd", ""])
def test_only_https(tmp_path, server, url):
    with pytest.raises(DataError, match="only https downloads are allowed"):
        download.download(url, tmp_path / "x", "0" * 64)
    assert server.asked == []


@pytest.mark.parametrize("url", ELSEWHERE)
def test_only_https_also_where_a_server_sends_us(tmp_path, server, url):
    data = b"[1]"
    server.answers = {
        "https://a.example/x": (302, b"", {"Location": "https://b.example/y"}),
        "https://b.example/y": (307, b"", {"Location": "/z"}),
        "https://b.example/z": (200, data, {}),
        "https://a.example/bad": (302, b"", {"Location": url}),
    }
    download.download("https://a.example/x", tmp_path / "x", hashlib.md5(data).hexdigest())
    assert (tmp_path / "x").read_bytes() == data
    with pytest.raises(DataError, match="only https downloads are allowed"):
        download.download("https://a.example/bad", tmp_path / "y", "0" * 64)
    assert server.asked[-1] == "https://a.example/bad"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_files_of_the_hubs_cache_are_compared_with_their_names(tmp_path, directory, monkeypatch):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("c" * 40)
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in directory.iterdir():
        data = file.read_bytes()
        large = file.suffix == ".safetensors"
        name = hashlib.sha256(data) if large else hashlib.sha1(f"blob {len(data)}\0".encode() + data)
        (blobs / name.hexdigest()).write_bytes(data)
        (snapshot / file.name).symlink_to(blobs / name.hexdigest())
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(snapshot))
    (tmp_path / "out").mkdir()
    fetch("somebody/model", tmp_path / "out", revision="main")
    assert json.loads((tmp_path / "out" / SOURCE).read_text()) == {
        "commit": "c" * 40,
        "revision": "main",
        "source": "somebody/model",
    }
    load_model(tmp_path / "out")
    for name in ("model.safetensors", "config.json"):
        blob = (snapshot / name).resolve()
        data = blob.read_bytes()
        blob.write_bytes(data[:-1])
        with pytest.raises(
            ModelError, match=rf"{name}: its content is not what the hub's checksum says; delete \S+ and rerun"
        ):
            fetch("somebody/model", tmp_path / "out2")
        blob.write_bytes(data)
    check_blob(directory / "config.json")  # not of a cache: nothing to compare with


def test_texts_of_the_hub(monkeypatch):
    class Old:
        __version__ = "2.19.0"

    class New:
        __version__ = "4.0.1"

        @staticmethod
        def load_dataset(*arguments, **options):
            assert "trust_remote_code" not in options
            return [{"text": "one"}, {"text": ""}, {"text": "two"}]

    import sys

    monkeypatch.setitem(sys.modules, "datasets", Old)
    with pytest.raises(DataError, match="runs scripts of data sets"):
        list(hub.hub_text(HubText(id="a/b")))
    monkeypatch.setitem(sys.modules, "datasets", New)
    assert list(hub.hub_text(HubText(id="a/b"))) == ["one", "two"]
    assert list(hub.hub_text(HubText(id="a/b", texts=1))) == ["one"]
    digest = hashlib.sha256(b"one\ntwo\n").hexdigest()
    assert list(hub.hub_text(HubText(id="a/b", sha256=digest)))
    with pytest.raises(DataError, match="expected 000"):
        list(hub.hub_text(HubText(id="a/b", sha256="0" * 64)))
    with pytest.raises(DataError, match="cannot be read"):
        list(hub.hub_text(HubText(id="a/b", column="column")))
