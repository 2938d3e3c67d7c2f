"""What somebody meets who uses editlab for the first time, with a model and a file of their own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_model, tiny_requests

import editlab
from editlab.config.data import FactsData, FileData
from editlab.config.edit import EditStudy
from editlab.config.run import check_files, load_run
from editlab.data.corpus import sample_known
from editlab.errors import ConfigError, DataError, ModelError

ROOT = Path(__file__).parents[1]
TEXTS = [r.rewrite_prompt + " " + r.target_true + "." for r in tiny_requests(60)] * 4
RECORD = {"prompt": "Anna Abel was born in", "subject": "Anna Abel", "target_new": "Rome", "ground_truth": "Paris"}


def test_three_lines_make_an_edit_on_any_model():
    for family in ("gpt2", "llama"):
        model = tiny_model(family)
        statistics = editlab.collect_statistics(model, TEXTS, progress=False)
        assert sorted(statistics) == [0, 1, 2]
        edit = editlab.edit(model, tiny_requests(1), layers=[1], statistics=statistics, clamp=2.0)
        assert edit.norm() > 0


def test_statistics_of_a_text_file(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    model = tiny_model()
    (moment,) = editlab.collect_statistics(model, tmp_path / "text.txt", [2], progress=False).values()
    assert moment.size == 64
    assert moment.count > 600


def test_one_request_a_record_or_a_list_of_records_will_do():
    model = tiny_model()
    statistics = editlab.collect_statistics(model, TEXTS, [1], progress=False)
    request = editlab.EditRequest("0", "{} was born in", "Anna Abel", "Rome", "Paris")
    edits = [
        editlab.edit(model, given, layers=[1], statistics=statistics)
        for given in (request, [request], RECORD, [RECORD], [request.to_record()], (request,))
    ]
    assert all(torch.equal(edit.delta(1), edits[0].delta(1)) for edit in edits)
    assert [edit.info["cases"] for edit in edits] == [["0"]] * len(edits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("file.json", "requests: str is not allowed"),
        (3, "requests: int is not allowed"),
        ([3], "requests: item 0: int is not allowed"),
        ([{"a": 1}], r"requests: record 0: unknown layout with fields \['a'\]"),
        ([RECORD, {**RECORD, "subject": "Bo"}], "requests: record 1: the subject 'Bo' does not occur"),
        ([RECORD, {**RECORD, "case_id": 0}], "case_id '0' of record 1 is already used"),
        ([], "none given"),
    ],
)
def test_other_requests_are_refused_in_one_line(given, message):
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        editlab.edit(tiny_model(), given, layers=[1], method="ft")
    assert "\n" not in str(caught.value)


def test_what_can_be_edited_can_be_scored():
    model = tiny_model()
    request = editlab.EditRequest("0", "{} was born in", "Anna Abel", "Rome", "Paris")
    first, *others = (editlab.evaluate(model, given, resamples=0) for given in (request, [request], RECORD, [RECORD]))
    assert all(first.equals(other) for other in others)
    with pytest.raises(DataError, match="requests: str is not allowed"):
        editlab.evaluate(model, "file.json")


def test_statistics_of_another_layer_are_named():
    model = tiny_model()
    statistics = editlab.collect_statistics(model, TEXTS, [2], progress=False)
    with pytest.raises(ConfigError, match=r"statistics: layer 1 is missing; given: \[2\]"):
        editlab.edit(model, RECORD, layers=[1], statistics=statistics)


def test_help_shows_the_function():
    import editlab.editing.session

    assert callable(editlab.edit)
    assert "Edit facts and return the change" in str(editlab.edit.__doc__)


def test_edits_of_different_models_are_not_added():
    edits = {}
    for name, model in (("a", tiny_model()), ("wide", tiny_model(width=64)), ("llama", tiny_model("llama"))):
        edits[name] = editlab.edit(model, tiny_requests(1), layers=[1], method="ft", steps=1)
    assert (edits["a"] + edits["a"]).norm() > 0
    with pytest.raises(
        ModelError, match=r"different models.*layer 1 has shape \(32, 64\) in one, \(64, 128\) in the other"
    ):
        edits["a"] + edits["wide"]
    with pytest.raises(ModelError, match=r"different models cannot be added: the kind of one is transformer\.h"):
        edits["a"] + edits["llama"]


def test_an_edit_is_not_applied_to_another_kind_of_model():
    """The maps of this GPT-2 and this Llama have one shape."""
    edit = editlab.edit(tiny_model(), tiny_requests(1), layers=[1], method="ft", steps=1)
    with pytest.raises(
        ModelError, match=r"the edit changes transformer\.h.*; the model's maps are called model\.layers"
    ):
        edit.apply_(tiny_model("llama"))
    edit.apply_(tiny_model(seed=3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "a Git LFS pointer.*git lfs pull"),
        ('[{"prompt": "A", "subject": "B", "prompt": "C"}]', "the key 'prompt' stands twice in an object"),
        ('{"prompt": "A"}\n{"prompt": "C"}\n', "several JSON values, the second in line 2; make it one list"),
        (json.dumps([{**RECORD, "subject": "Bo"}]), "record 0: the subject 'Bo' does not occur in the prompt"),
    ],
)
def test_a_file_that_cannot_be_read_whole_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        editlab.load_requests(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_records_of_a_file_are_loaded_on_request(tmp_path, caplog):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([RECORD, {**RECORD, "subject": "Bo", "case_id": 4}]))
    assert len(editlab.load_requests(path, skip_invalid=True)) == 1
    assert "1 of 2 records left out: 1 x the subject ... does not occur" in caplog.text


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_names_are_one(tmp_path, forms):
    subject, prompt = (unicodedata.normalize(form, "Žofie Müller") for form in forms)
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{**RECORD, "subject": subject, "prompt": f"{prompt} was born in"}]))
    (request,) = editlab.load_requests(path)
    assert request.prompt == "{} was born in"
    assert editlab.edit(tiny_model(), request, layers=[1], method="ft", steps=1).norm() > 0


def test_a_missing_configfile_is_one_line_of_make(tmp_path):
    """Snakemake reads these files before it looks at a workflow, and shows a traceback; make looks first."""
    command = ["make", "-s", "-C", str(ROOT), "study", "CONFIGFILE=runs/nowhere.yaml"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert (
        found.stderr.splitlines()[0]
        == "CONFIGFILE: 'runs/nowhere.yaml' is not a file; name one, such as runs/full.yaml"
    )
    assert found.stdout == ""
    assert not (ROOT / "results" / "nowhere").exists()


def test_snakemake_names_a_missing_configfile_and_writes_nothing(tmp_path):
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "-s",
        str(ROOT / "Snakefile"),
        "all",
        "--configfile",
        "nowhere.yaml",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 1
    assert "No such file or directory: 'nowhere.yaml'" in found.stderr + found.stdout
    assert list(tmp_path.iterdir()) == []


def run_of(folder: Path, records: list, **changes) -> dict:
    """The default run with a file of records as its data set."""
    path = folder / "file.json"
    path.write_text(json.dumps(records))
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["edit"]["datasets"] = {"mine": {"path": str(path), **changes}}
    values["edit"]["dataset"] = "mine"
    for model in values["edit"]["models"].values():
        model["dataset"] = "mine"
    return values


def test_a_file_needs_no_kind_and_a_world_says_so(tmp_path):
    run = load_run(run_of(tmp_path, [RECORD]))
    study = run.edit
    assert isinstance(study, EditStudy)
    assert study.datasets["mine"] == FileData(path=str(tmp_path / "file.json"))
    assert study.datasets["mine"].kind == "auto"
    with pytest.raises(ConfigError, match=r"datasets\.mine\.kind: 'wiki' is not allowed"):
        load_run(run_of(tmp_path, [RECORD], kind="wiki"))
    assert FactsData(kind="facts").size == 1800


@pytest.mark.parametrize("kind", ["counterfact", "zsre", "mquake"])
def test_a_file_of_another_kind_than_named_is_told_by_its_own(tmp_path, kind):
    path = tmp_path / "file.json"
    path.write_text(json.dumps([RECORD]))
    with pytest.raises(DataError, match=f"record 0: not of the kind '{kind}' but of 'easyedit'; leave kind out"):
        editlab.load_requests(path, kind)


@pytest.mark.parametrize("name", ["counterfact500", "counterfact", "forgetting_counterfact", "gpt2_xl"])
def test_a_run_on_a_file_takes_one_of_any_form(name):
    """``--config data_path=FILE`` puts another file in the place of the run's own."""
    values = yaml.safe_load((ROOT / "runs" / f"{name}.yaml").read_text())["edit"]
    assert all("kind" not in section for section in values["datasets"].values())


def test_more_edits_than_records_are_refused_before_anything_runs(tmp_path):
    run = load_run(run_of(tmp_path, [{**RECORD, "case_id": i} for i in range(5)]))
    with pytest.raises(
        ConfigError, match=r"edit\.experiments\.\w+\.num_edits: \d+ is not allowed; .*file\.json has 4 requests"
    ):
        check_files(run)
    check_files(load_run(run_of(tmp_path, [{**RECORD, "case_id": i} for i in range(2000)])))


def test_the_remedy_is_named_when_too_few_facts_are_known():
    with pytest.raises(
        DataError, match=r"2 requests asked for.*0 of 3 facts are known to the model; known_only: false"
    ):
        sample_known(tiny_requests(3), set(), 2, seed=1)


def test_a_case_is_edited_whole_or_not_at_all():
    """Its questions follow from all of its facts: one that the model does not know takes the others along."""
    requests = [dataclasses.replace(r, group=str(i // 2)) for i, r in enumerate(tiny_requests(6))]
    known = {r.case_id for r in requests} - {"2"}
    assert {r.case_id for r in sample_known(requests, known, 4, seed=1)} == {"0", "1", "4", "5"}
    with pytest.raises(DataError, match=r"4 of 6 facts are known to the model, together with all others of their case"):
        sample_known(requests, known, 5, seed=1)
    alone = [dataclasses.replace(r, group="") for r in requests]
    assert len(sample_known(alone, known, 5, seed=1)) == 5
