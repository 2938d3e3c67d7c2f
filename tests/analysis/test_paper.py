"""What the workflow writes for the paper: sentences by topic, small tables, definitions; and a paper with hardly any results."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from fabricated import HOSTILE, fabricate
from test_run import run_of, small_study
from test_typeset import PAPER, needs_latex

from editlab.analysis.edit import REPORT
from editlab.analysis.edit.missed import findings, missed_facts
from editlab.analysis.edit.scores import without_effect
from editlab.analysis.paper.typeset import typeset_within
from editlab.analysis.report import paper, texts
from editlab.analysis.report.front import Told
from editlab.data import load_requests


def finding(topic: str, sentence: str, supported: bool) -> dict[str, object]:
    return {"key": f"{topic}.x", "topic": topic, "sentence": sentence, "supported": supported, "value": 0.1}


FINDINGS = [
    finding("methods", "A is as good as B.", False),
    finding("methods", "C beats D by 5 %.", True),
    *(finding("replay", f"Rate {k} makes no measurable difference.", False) for k in range(6)),
    finding("replay", "Rate 9 helps.", True),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    lora = {"methods": ["emmet_lora"], "batch": [32], "replay": [0], "rank": [8], "seeds": [1], "num_edits": 64}
    root, study = tmp_path_factory.mktemp("paper"), small_study(lora_ablation=lora)
    fabricate(root, study, facts=40)
    run = run_of(root, study)
    requests = {r.case_id: r for r in load_requests(root / "results" / "data" / "facts" / "requests.json")}
    cells = [(root / directory, cell) for directory, cell in run.finished("edit")]
    return run, missed_facts(cells, requests, without_effect(run.settings))


def told(made, findings=FINDINGS) -> list[Told]:
    run, missed = made
    return [Told(REPORT, run, REPORT.describe(run, {"missed_facts": missed}), findings)]


def defined(text: str, kind: str, key: str) -> str:
    return re.search(rf"\\def{kind}\{{{re.escape(key)}\}}\{{(.*)\}}$", text, flags=re.MULTILINE)[1]


def test_a_topic_is_led_by_what_the_data_support():
    assert [f["sentence"] for f in texts.leading(FINDINGS, ["replay", "methods", "lora"], 5)] == [
        "Rate 9 helps.",
        "C beats D by 5 %.",
    ]


def test_a_section_tells_supported_sentences_first_and_counts_the_rest():
    sentences = texts.told([f for f in FINDINGS if f["topic"] == "replay"], 3)
    assert sentences[:3] == [
        "Rate 0 makes no measurable difference.",
        "Rate 1 makes no measurable difference.",
        "Rate 9 helps.",
    ]
    assert "4 more statements" in sentences[3]
    assert "0 with a clear result" in sentences[3]


def test_sentences_are_those_of_the_findings_and_missing_sections_say_so(made):
    text = paper.generated(told(made), {"batch_size": "n = 3"}, {})
    assert defined(text, "findings", "edit.methods") == r"A is as good as B. C beats D by 5 \%."
    assert "no experiment of its own on trust and rollback" in defined(text, "findings", "edit.trust")
    assert "do not allow a statement" in defined(text, "findings", "edit.lora")
    assert r"\atdetail{5}{\deffigure{batch_size}{n = 3}}" in text
    changed = [FINDINGS[0] | {"sentence": "B is better."}, *FINDINGS[1:]]
    assert "B is better." in paper.generated(told(made, changed), {}, {})
    assert "Two Methods on a GPT" in defined(text, "value", "paper.title")
    assert "three" in defined(text, "value", "edit.methods")


def test_small_tables_follow_the_configuration_and_the_facts(made, tmp_path):
    matrix = tmp_path / "ablation_matrix.csv"
    matrix.write_text("method\n")
    tables = paper.own_tables(told(made), {"ablation_matrix": str(matrix)}, {"batch_size": "x"}, {})
    assert r"edit & MEMIT, EMMET, unedited & 32" in tables["experiments"]
    assert "clamp 0.75" in tables["recipes"]
    assert "as EMMET; LoRA, recompress, edit metric" in tables["recipes"]
    plain = {name: re.sub(r"\\allowbreak\{\}", "", text) for name, text in tables.items()}
    assert re.search(r"ablation\\_matrix\.csv & [0-9a-f]{8} & figure batch\\_size", plain["provenance"])
    assert r"\textless{}script\textgreater{}" in plain["failures"]
    assert not any(subject in plain["failures"] for subject, _, _ in HOSTILE)


@needs_latex
def test_a_study_with_hardly_any_results_gives_a_smaller_paper(made, tmp_path):
    studies = told(made, [])
    own = paper.own_tables(studies, {}, {}, {})
    files = {f"tables/{name}.tex": text for name, text in own.items()}
    files["generated.tex"] = paper.generated(studies, {}, {})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    sources: dict[str, Path] = {f.name: f for f in PAPER.iterdir()}
    sources["sections/edit.tex"] = PAPER.parent / "sections" / "edit.tex"
    sources |= {name: tmp_path / name for name in files}
    outcome = typeset_within(
        sources, "paper", tmp_path / "paper.pdf", tmp_path / "log", pages=8, detail=paper.detail([REPORT])
    )
    assert 5 <= outcome.pages <= 8
    assert (outcome.undefined, outcome.overfull) == ([], [])
    if shown := pdf_text(tmp_path / "paper.pdf"):
        assert "no experiment of its own on trust and rollback" in " ".join(shown.split())
        assert "??" not in shown


def pdf_text(path: Path) -> str:
    """Text of a PDF; empty where poppler is not installed."""
    try:
        return subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return ""


def test_missing_facts_are_told(made):
    _, missed = made
    (finding,) = findings({"missed_facts": missed})
    lost = int((missed["ES"] < 0.5).sum())
    assert f"{lost} fact{'s' * (lost != 1)} kept the old object" in finding.sentence
    (nothing,) = findings({"missed_facts": missed.iloc[:0]})
    assert "No edited fact failed" in nothing.sentence
