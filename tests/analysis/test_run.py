"""What the files of a run say about it: cells, costs, what is missing and why; the model card and the missed facts."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from docutils.core import publish_parts
from fabricated import HOSTILE, fabricate

from editlab.analysis.edit import REPORT
from editlab.analysis.edit.missed import missed_facts
from editlab.analysis.edit.scores import without_effect
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.front import Told, card, front_page
from editlab.analysis.report.run import Run
from editlab.config.run import load_run
from editlab.data import load_requests
from editlab.errors import ArtifactError, DataError
from editlab.files.artifacts import read_provenance, record_of, write_provenance

REPOSITORY = Path(__file__).parents[2]
TEMPLATES = REPOSITORY / "report" / "templates"
FINDING = {"key": "methods.best", "topic": "methods", "value": 0.9, "low": 0.8, "high": 1.0, "n": 60, "source": "x.csv"}
FINDINGS = [
    FINDING | {"sentence": "EMMET is best, 0.90 (0.80 to 1.00).", "supported": True},
    FINDING | {"topic": "batch", "sentence": "Batch size makes no measurable difference.", "supported": False},
]


def small_study(**experiments):
    values = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    edit = {"methods": ["memit", "emmet", "none"], "batch": [32], "replay": [0], "seeds": [1], "num_edits": 64}
    values["edit"]["experiments"] = {"edit": edit, **experiments}
    return load_run(values).edit


def run_of(root: Path, study) -> Run:
    base = ("results", "edit")
    cells = {
        experiment: [
            ("/".join([*base, experiment, study.model, study.dataset, *(f"{k}~{v}" for k, v in cell.items())]), cell)
            for cell in study.cells(experiment)
        ]
        for experiment in study.experiments
    }
    paths = {
        "known": f"results/known/{study.model}/{study.dataset}.csv",
        "training_time": f"results/benchmarks/rules/train_substrate/{study.model}.jsonl",
    }
    inputs = {"requests": ["results/data/facts/requests.json"]}
    return Run("default", study.model_dump(mode="json"), cells, inputs, paths, root=root)


def told(root: Path, study, findings=FINDINGS, headline=None) -> list[Told]:
    run = run_of(root, study)
    return [Told(REPORT, run, REPORT.describe(run, {}), findings, headline)]


def page_of(*arguments, **options) -> str:
    return front_page(told(*arguments, **options), TEMPLATES)


def card_of(*arguments, **options) -> str:
    return card(told(*arguments, **options), TEMPLATES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root, study = tmp_path_factory.mktemp("run"), small_study()
    fabricate(root, study, facts=40)
    return root, study


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run", run_of(tmp_path / "run", made[1]), made[1]


def requests_of(root: Path):
    return load_requests(root / "results" / "data" / "facts" / "requests.json")


def test_a_finished_run(made):
    run = run_of(*made)
    assert run.missing() == []
    assert len(run.finished("edit")) == 3
    assert run.experiments().iloc[0]["finished"] == 3
    assert run.seconds().loc["targets", "cpu"] >= 18
    assert run.decisions()["accepted"] == 2 + 2 + 24  # batches of 32, and the control edit by edit
    setting = " ".join(REPORT.describe(run, {}).setting)
    assert "Training took 61 seconds." in setting
    assert "100.0 % of the 40 rewrite prompts" in setting
    assert {"random", "none"} <= set(without_effect(run.settings))
    assert "memit" not in without_effect(run.settings)


def test_a_missing_cell_is_named_with_the_reason_from_its_log(copied):
    root, run, study = copied
    directory, cell = run.cells["edit"][0]
    shutil.rmtree(root / directory)
    record_of(root / directory).unlink()
    assert run.missing() == [(directory, "was not run")]
    log = root / "logs" / "edit_cell" / f"edit-substrate-facts-{'-'.join(cell.values())}.log"
    log.parent.mkdir(parents=True)
    log.write_text("Loading\nerror: solver memit: broken\n")
    assert run.missing() == [(directory, "error: solver memit: broken")]
    text = card_of(root, study)
    assert "1 declared cell without a result" in text
    assert "solver memit: broken" in text
    assert re.search(r"\| 3 +\| 2 +\|", text)


def test_a_damaged_event_file_is_named(copied):
    root, run, _ = copied
    (root / run.cells["edit"][0][0] / "events.jsonl").write_text("{")
    with pytest.raises(ArtifactError, match=r"events\.jsonl: altered"):
        run.decisions()


def test_the_card_is_one_page_that_says_it_all(made):
    text = card_of(*made)
    assert len(text.splitlines()) <= 60
    for heading in ("What ran", "On what", "How long", "What was found", "What failed or is missing"):
        assert f"## {heading}" in text
    assert "EMMET is best, 0.90 (0.80 to 1.00)." in text
    assert "- Batch size makes no measurable difference." in text
    assert "Every declared cell is finished." in text
    assert "no experiment of its own on" in text
    assert "GPT-2 of 4 layers and width 128" in text
    assert re.search(r"code `[0-9a-f]{12}`", text)


def test_missed_facts_have_their_text(made):
    root, study = made
    run = run_of(root, study)
    requests = {r.case_id: r for r in requests_of(root)}
    cells = [(root / directory, cell) for directory, cell in run.finished("edit")]
    table = missed_facts(cells, requests, without_effect(run.settings))
    with pytest.raises(DataError, match="f00000: in a cell, but not in the data set"):
        missed_facts(cells, {}, without_effect(run.settings))
    assert table["ES"].is_monotonic_increasing
    assert (table[["ES", "PS"]].min(axis=1) < 1).all()
    assert set(table["streams"]) == {2}  # memit and emmet, not the control
    shown = " ".join(table["prompt"])
    assert any(subject in shown for subject, _, _ in HOSTILE)


def test_the_front_page_is_valid_and_holds_the_numbers(made):
    frame = pd.DataFrame(
        {"method": ["emmet", "memit"], "batch": [32, 32], "S": [0.91, 0.8], "S_low": [0.9, 0.7], "S_high": [0.95, 0.9]}
        | {"S_best": [True, False]}
    )
    columns = [Column("method", "method", "method"), Column("batch", "batch", "count"), Column("S", "S")]
    text = page_of(*made, headline=Printed(frame, columns, "A legend."))
    page = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["html_body"]
    assert "<strong>0.91</strong> [0.90, 0.95]" in page
    assert "<strong>0.80" not in page
    assert "EMMET is best, 0.90 (0.80 to 1.00)." in page
    assert "system-message" not in page
    nothing = page_of(*made, findings=[])
    assert "Headline" not in nothing
    assert "Set-up" in nothing


def test_two_studies_stand_under_each_other(made):
    studies = told(*made)
    other = dataclasses.replace(studies[0], report=dataclasses.replace(REPORT, title="Another study"))
    text = front_page([*studies, other], TEMPLATES)
    page = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["html_body"]
    assert page.index("Knowledge editing") < page.index("Another study")
    assert card([*studies, other], TEMPLATES).count("### What ran") == 2


def test_numbers_of_the_card_follow_the_files(copied):
    root, run, study = copied
    before = card_of(root, study)
    folder = root / run.cells["edit"][0][0]
    provenance = read_provenance(folder)
    write_provenance(folder, provenance | {"peak_memory_mb": 4321.0}, provenance["files"])
    assert "4,321 MB" in card_of(root, study)
    assert "4,321 MB" not in before
