"""What the files of a run say about it: cells, costs, what is missing and why; the model card and the missed facts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from editlab.analysis.failures import missed_facts
from editlab.analysis.front import front_page
from editlab.analysis.run import Run
from editlab.analysis.summary import model_card
from fabricated import HOSTILE, fabricate

from editlab.config.run import load_run
from editlab.data import load_requests
from editlab.errors import ArtifactError, DataError
from editlab.files.artifacts import read_provenance, write_csv, write_provenance

REPOSITORY = Path(__file__).parents[2]
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
    cells = {
        experiment: [
            (
                "/".join(["results", experiment, study.model, study.dataset, *(f"{k}~{v}" for k, v in cell.items())]),
                cell,
            )
            for cell in study.cells(experiment)
        ]
        for experiment in study.experiments
    }
    return Run({"study": "default", **study.model_dump(mode="json")}, cells, root)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root, study = tmp_path_factory.mktemp("run"), small_study()
    fabricate(root, study, facts=40)
    return root, study


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run", run_of(tmp_path / "run", made[1])


def requests_of(root: Path):
    return load_requests(root / "results" / "data" / "facts" / "requests.json")


def test_a_finished_run(made):
    run = run_of(*made)
    assert run.missing() == []
    assert len(run.finished("edit")) == 3
    assert run.experiments().iloc[0]["finished"] == 3
    assert run.seconds().loc["targets", "cpu"] >= 18
    assert run.decisions()["accepted"] == 2 + 2 + 24  # batches of 32, and the control edit by edit
    assert run.training() == {"recall": 1.0, "seconds": 61.2}
    assert run.known_share() == (1.0, 40)
    assert {"random", "none"} <= set(run.controls())
    assert "memit" not in run.controls()


def test_a_missing_cell_is_named_with_the_reason_from_its_log(copied):
    root, run = copied
    directory, cell = run.cells["edit"][0]
    shutil.rmtree(root / directory)
    assert run.missing() == [(directory, "was not run")]
    log = root / "logs" / "edit_cell" / f"edit-substrate-facts-{'-'.join(cell.values())}.log"
    log.parent.mkdir(parents=True)
    log.write_text("Loading\nerror: solver memit: broken\n")
    assert run.missing() == [(directory, "error: solver memit: broken")]
    card = model_card(run, requests_of(root), FINDINGS)
    assert "1 declared cell without a result" in card
    assert "solver memit: broken" in card
    assert "| 2 of 3 |" in card


def test_a_damaged_event_file_is_named(copied):
    root, run = copied
    (root / run.cells["edit"][0][0] / "events.jsonl").write_text("{")
    with pytest.raises(ArtifactError, match=r"events\.jsonl: altered"):
        run.decisions()


def test_the_model_card_is_one_page_that_says_it_all(made):
    card = model_card(run_of(*made), requests_of(made[0]), FINDINGS)
    assert len(card.splitlines()) <= 60
    for heading in ("What ran", "On what", "How long", "What was found", "What failed or is missing"):
        assert f"## {heading}" in card
    assert "EMMET is best, 0.90 (0.80 to 1.00)." in card
    assert "- Batch size makes no measurable difference." in card
    assert "Every declared cell is finished." in card
    assert "no experiment of its own on" in card
    assert "GPT-2 of 4 layers and width 128" in card
    assert re.search(r"code `[0-9a-f]{12}`", card)


def test_missed_facts_have_their_text_and_are_harmless_in_a_spreadsheet(made, tmp_path):
    root, study = made
    run = run_of(root, study)
    requests = {r.case_id: r for r in requests_of(root)}
    cells = [(root / directory, cell) for directory, cell in run.finished("edit")]
    table = missed_facts(cells, requests, run.controls())
    with pytest.raises(DataError, match="f00000: in a cell, but not in the data set"):
        missed_facts(cells, {}, run.controls())
    assert table["ES"].is_monotonic_increasing
    assert (table[["ES", "PS"]].min(axis=1) < 1).all()
    assert set(table["streams"]) == {2}  # memit and emmet, not the control
    shown = " ".join(table["prompt"])
    assert any(subject in shown for subject, _, _ in HOSTILE)
    write_csv(tmp_path / "missed.csv", table)
    for line in (tmp_path / "missed.csv").read_text(encoding="utf-8").splitlines():
        assert not any(field.lstrip('"').startswith(("=", "@", "-1", "+")) for field in line.split(","))


def test_the_front_page_is_valid_and_holds_the_numbers(made):
    import pandas as pd
    from docutils.core import publish_parts

    methods = pd.DataFrame(
        {"method": ["emmet", "memit"], "batch": [32, 32], "seeds": 2, "n": 80}
        | {s: [0.91, 0.8] for s in ("ES", "PS", "NS", "S")}
        | {f"{s}_low": [0.9, 0.7] for s in ("ES", "PS", "NS", "S")}
        | {f"{s}_high": [0.95, 0.9] for s in ("ES", "PS", "NS", "S")}
        | {"S_best": [True, False]}
    )
    text = front_page(run_of(*made), requests_of(made[0]), methods, FINDINGS)
    page = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["html_body"]
    assert "<strong>0.91</strong> [0.90, 0.95]" in page
    assert "<strong>0.80" not in page
    assert "EMMET is best, 0.90 (0.80 to 1.00)." in page
    assert "system-message" not in page
    nothing = front_page(run_of(*made), requests_of(made[0]), None, [])
    assert "Headline" not in nothing
    assert "Set-up" in nothing


def test_numbers_of_the_card_follow_the_files(copied):
    root, run = copied
    before = model_card(run, requests_of(root), [])
    folder = root / run.cells["edit"][0][0]
    provenance = read_provenance(folder)
    write_provenance(folder, provenance | {"peak_memory_mb": 4321.0}, provenance["files"])
    assert "4,321 MB" in model_card(run, requests_of(root), [])
    assert "4,321 MB" not in before
