"""What second moments are made of: streams of text from files and folders, samples, and files of the MEMIT code."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_requests

import editlab
from editlab.algebra.second_moment import SecondMoment
from editlab.config.base import validated
from editlab.config.preparation import Statistics
from editlab.config.recipe import Recipe
from editlab.data.corpus import statistics_texts, stream_texts
from editlab.editing.session import EditSession
from editlab.errors import ArtifactError, ConfigError, DataError
from editlab.moments.collection import collect_second_moments
from editlab.moments.stored import read_published, resolve_statistics, save_statistics

LINES = [r.rewrite_prompt for r in tiny_requests(60)]


def collected(texts, **given):
    options = Statistics(**{"max_length": 8, **given})
    return collect_second_moments(tiny_model(), texts, [1], options, progress=False)[1]


def test_samples_are_texts_cut_to_their_first_window(caplog):
    found = collected(LINES, samples=10)
    cut = [tiny_model().tokenizer(text).input_ids[:8] for text in LINES[:10]]
    assert found.count == sum(map(len, cut))
    assert "were asked for" not in caplog.text
    assert collected(LINES[:3], samples=10).count == sum(map(len, cut[:3]))
    assert "the text has 3 samples, 10 were asked for" in caplog.text
    whole = collected(LINES[:10], max_length=128, samples=10)
    assert whole.count == sum(len(tiny_model().tokenizer(text).input_ids) for text in LINES[:10])


def test_samples_are_resumed_too(tmp_path):
    class Stop(Exception):
        pass

    def broken():
        yield from LINES[:40]
        raise Stop

    partial = tmp_path / "partial.safetensors"
    arguments = {"batch_tokens": 16, "save_every": 1, "partial": partial, "progress": False}
    options = Statistics(max_length=8, samples=50)
    undisturbed = collect_second_moments(tiny_model(), LINES, [0, 1], options, batch_tokens=16, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editlab.moments.passes.SORT_WINDOW", 8)
        expected = collect_second_moments(tiny_model(), LINES, [0, 1], options, batch_tokens=16, progress=False)
        with pytest.raises(Stop):
            collect_second_moments(tiny_model(), broken(), [0, 1], options, **arguments)
        assert partial.is_file()
        resumed = collect_second_moments(tiny_model(), LINES, [0, 1], options, **arguments)
    for layer in (0, 1):
        assert torch.equal(resumed[layer].matrix, expected[layer].matrix)
        torch.testing.assert_close(undisturbed[layer].matrix, expected[layer].matrix, rtol=1e-5, atol=1e-7)


def test_a_folder_is_streamed_file_by_file_in_the_order_of_names(tmp_path):
    (tmp_path / "b.txt").write_text("= Title =\n\nthird\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text(
        '{"text": "first\\nstill first"}\n\n{"text": "second", "id": 1}\n{"text": ""}\n'
    )
    (tmp_path / "notes.md").write_text("not text")
    assert list(stream_texts(tmp_path)) == ["first\nstill first", "second", "third"]
    assert list(statistics_texts(tmp_path / "b.txt", None)) == ["third"]


def test_a_stream_holds_no_more_than_it_has_given(tmp_path):
    """A file of 200 MB is read in a process that may have no more than a part of it at once."""
    file = tmp_path / "large.txt"
    with file.open("w") as out:
        for i in range(2000):
            out.write(f"{i} " + "x" * 100_000 + "\n")
    code = (
        "import itertools, resource, sys\n"
        "from editlab.data.corpus import stream_texts\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(1 for _ in stream_texts(sys.argv[1])) == 2000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # kB


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"", "holds no paragraph"),
        ("a.txt", b"one\0two\n", "NUL bytes"),
        ("a.txt", b"\xff\xfe\n", "not UTF-8"),
        ("a.jsonl", b"[1]\n", "line 1 is not an object"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 is not an object"),
        ("a.jsonl", b'{"text": 3}\n', 'its "text" is no text'),
    ],
)
def test_bad_text_is_named(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        list(stream_texts(tmp_path / name))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        list(stream_texts(tmp_path / "missing.txt"))


# ---- statistics files of the MEMIT code ---------------------------------------------------------------------------


def published(path, moment, **given):
    """As the MEMIT code writes it: sums in float32, the constructor's name, the number of samples."""
    values = {
        "mom2.constructor": "util.runningstats.SecondMoment()",
        "mom2.count": np.int64(moment.count),
        "mom2.mom2": (moment.matrix * moment.count).float().numpy(),
        "sample_size": 100_000,
    }
    np.savez(path, **{**values, **given})
    return path


def test_a_published_file_is_read_and_edits_as_our_own(tmp_path):
    own = collected(LINES)
    path = published(tmp_path / "transformer.h.1.mlp.c_proj_float32_mom2_100000.npz", own)
    found = read_published(path)
    assert found.count == own.count
    torch.testing.assert_close(found.matrix, own.matrix, rtol=1e-6, atol=1e-9)
    assert torch.equal(found.matrix, found.matrix.T)
    save_statistics(tmp_path / "layer-1.safetensors", 1, found)
    assert resolve_statistics({1: path}, [1])[1].count == own.count
    values = {"method": "memit", "layers": [1], "steps": 3, "second_moment_weight": 5.0}
    edits = [editlab.edit(tiny_model(), tiny_requests(2), statistics=s, **values)
             for s in ({1: path}, {1: own}, tmp_path)]  # fmt: skip
    for edit in edits[1:]:
        assert float((edit.delta(1) - edits[0].delta(1)).norm()) < 1e-3 * edits[0].norm()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"mom2.count": 0}, "no second moment"),
        ({"mom2.mom2": np.zeros((2, 3), np.float32)}, "not square"),
        ({"mom2.mom2": np.full((2, 2), np.nan, np.float32)}, "NaN"),
        ({"mom2.mom2": np.array(["a"])}, "no second moment"),
        ({"mom2.mom2": np.array([None], dtype=object)}, "not a statistics file"),
    ],
)
def test_a_bad_published_file_is_refused(tmp_path, given, problem):
    with pytest.raises(ArtifactError, match=problem) as caught:
        read_published(published(tmp_path / "a.npz", collected(LINES), **given))
    assert "\n" not in str(caught.value)


def test_other_files_are_no_published_statistics(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    np.savez(tmp_path / "b.npz", other=np.zeros(2))
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(ArtifactError, match=name):
            read_published(tmp_path / name)


def test_the_path_of_published_files_needs_its_layer():
    assert validated(Statistics, {"published": "s/h.{layer}.npz"}, "s").published_file(7) == "s/h.7.npz"
    with pytest.raises(ConfigError, match=r"published: .* is not allowed; a path with \{layer\}"):
        validated(Statistics, {"published": "s/h.7.npz"}, "s")


def test_a_hub_text_is_written_as_lines_that_are_read_back(tmp_path):
    texts = ["one\ntwo", "three"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert list(stream_texts(tmp_path / "a.jsonl")) == texts


@pytest.mark.parametrize(
    ("method", "tokens", "said"), [("alphaedit", 100, True), ("alphaedit", 641, False), ("memit", 100, False)]
)
def test_a_null_space_of_few_tokens_is_warned_of(method, tokens, said, caplog):
    moment = SecondMoment(torch.eye(64, dtype=torch.float64), tokens)
    EditSession(tiny_model(), validated(Recipe, {"solver": method, "layers": [1]}, "r"), statistics={1: moment})
    assert ("fewer than 10 x 64" in caplog.text) == said
