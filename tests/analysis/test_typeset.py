"""The typesetter: which engine, what it is told, what it makes of errors; and the hand-written sources of the paper."""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
from pathlib import Path

import pytest

from editlab.analysis.edit.description import DATA_CITED, MODEL_CITED
from editlab.analysis.paper.typeset import PACKAGES, TypesetError, find_engine, read_log, typeset, typeset_within
from editlab.analysis.text.latex import LETTERS, SPECIAL, escape

PAPER = Path(__file__).parents[2] / "report" / "paper"
SOURCES = [PAPER / "paper.tex", *sorted((PAPER.parent / "sections").glob("*.tex"))]
needs_latex = pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("bibtex")), reason=f"LaTeX is not installed ({PACKAGES})"
)


def source(tmp_path: Path, text: str) -> dict[str, Path]:
    file = tmp_path / "source.tex"
    file.write_text(f"\\documentclass{{article}}\\begin{{document}}{text}\\end{{document}}")
    return {"paper.tex": file}


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755 | stat.S_IXUSR)


def test_without_latex_the_packages_are_named(tmp_path):
    with pytest.raises(TypesetError, match="texlive-latex-recommended") as caught:
        find_engine(str(tmp_path))
    assert "tectonic" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_latex_is_taken_before_tectonic_and_only_with_bibtex(tmp_path):
    program(tmp_path / "bin", "tectonic", "")
    program(tmp_path / "bin", "pdflatex", "")
    assert find_engine(str(tmp_path / "bin")) == "tectonic"
    program(tmp_path / "bin", "bibtex", "")
    assert find_engine(str(tmp_path / "bin")) == "pdflatex"


def test_tectonic_may_run_no_commands(tmp_path, monkeypatch):
    said = (
        "echo \"$@ $SOURCE_DATE_EPOCH\" > paper.pdf; echo 'Output written on paper.xdv (7 pages, 1 bytes)' > paper.log"
    )
    program(tmp_path / "bin", "tectonic", said)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    outcome = typeset(source(tmp_path, "x"), "paper", tmp_path / "out.pdf", tmp_path / "log")
    arguments = (tmp_path / "out.pdf").read_text()
    assert "--untrusted" in arguments
    assert "paper.tex 1735689600" in arguments
    assert outcome.pages == 7


@needs_latex
def test_an_error_is_shown_and_nothing_is_written(tmp_path):
    with pytest.raises(TypesetError, match=r"Undefined control sequence"):
        typeset(source(tmp_path, r"\nonsense"), "paper", tmp_path / "out.pdf", tmp_path / "paper.log")
    assert not (tmp_path / "out.pdf").exists()
    assert "nonsense" in (tmp_path / "paper.log").read_text()


@needs_latex
def test_sources_can_neither_run_commands_nor_read_elsewhere(tmp_path):
    secret = tmp_path / "secret.tex"
    secret.write_text(r"\message{SE-CRET}")
    text = rf"\immediate\write18{{touch {tmp_path}/owned}}\IfFileExists{{{secret}}}{{\input{{{secret}}}}}{{}}a"
    with contextlib.suppress(TypesetError):  # an engine may refuse or ignore it
        typeset(source(tmp_path, text), "paper", tmp_path / "out.pdf", tmp_path / "paper.log")
    assert not (tmp_path / "owned").exists()
    assert "SE-CRET" not in (tmp_path / "paper.log").read_text()


@needs_latex
def test_detail_falls_until_the_paper_is_short_enough(tmp_path):
    text = r"\input{detail}\newcount\n\n=\detail\loop\ifnum\n>0 page\newpage\advance\n by -1\repeat"
    sources = source(tmp_path, text)
    outcome = typeset_within(sources, "paper", tmp_path / "out.pdf", tmp_path / "log", pages=2, detail=4)
    assert outcome.pages == 2
    assert typeset_within(sources, "paper", tmp_path / "out.pdf", tmp_path / "log", pages=0, detail=2).pages == 1


def test_what_a_log_says():
    log = (
        "LaTeX Warning: Reference `tab:x' on page 1 undefined on input line 3.\n"
        "Package natbib Warning: Citation `meng' on page 1 undefined on input line 4.\n"
        "Overfull \\hbox (26.9pt too wide) detected at line 171\nOutput written on paper.pdf (6 pages, 100 bytes).\n"
    )
    found = read_log(log)
    assert found.pages == 6
    assert len(found.undefined) == 2
    assert len(found.overfull) == 1


def body() -> str:
    text = "".join(f.read_text(encoding="utf-8") for f in SOURCES)
    return text.split(r"\begin{document}")[1]


def test_no_number_of_the_paper_is_typed_by_hand():
    text = re.sub(r"(?<!\\)%.*", "", body())
    text = re.sub(r"\\begin\{(equation|multline)\}.*?\\end\{\1\}", "", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]*\$", "", text)
    text = re.sub(r"\\(cite\w*|citep|citet|label|ref|val|findings\w*|result\w+|if\w+|bibliography)\{[^}]*\}", "", text)
    assert not re.findall(r"[^\n]{0,30}\d[^\n]{0,30}", text)


def test_every_citation_has_an_entry_and_every_entry_is_cited():
    cited = {key for keys in re.findall(r"\\cite\w*\{([^}]*)\}", body()) for key in keys.split(",")}
    cited |= set(MODEL_CITED.values()) | set(DATA_CITED.values())
    entries = (PAPER / "references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{([^,]+),", entries, flags=re.MULTILINE))
    assert cited == keys
    for entry in re.split(r"^@", entries, flags=re.MULTILINE)[1:]:
        assert re.search(r"^\s+title\s+=", entry, flags=re.MULTILINE), entry
        assert re.search(r"^\s+year\s+= \{\d{4}\}", entry, flags=re.MULTILINE), entry
        assert re.search(r"^\s+author\s+=", entry, flags=re.MULTILINE), entry


def test_the_style_has_the_geometry_of_the_acl():
    style = (PAPER / "editlab.sty").read_text(encoding="utf-8")
    assert "a4paper,margin=2.5cm" in style  # 21 - 2 x 2.5 = 2 x 7.7 + 0.6
    assert r"\setlength{\columnsep}{0.6cm}" in style
    assert r"\documentclass[11pt,a4paper]" in (PAPER / "paper.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        r"\input{/etc/passwd} \write18{rm -rf /}",
        "100 % of $x_1$ & {braces} # ~ ^",
        "quotes \" ' ` and <script>",
        "a -- b --- c ,, d",
        "{{ config }} {% for x in y %}",
    ],
)
def test_escaped_text_holds_no_active_character(text):
    escaped = escape(text)
    names = "backslash|asciitilde|asciicircum|less|greater|bar|quotedbl|quotesingle|asciigrave"
    left = re.sub(rf"\\text({names})\{{\}}", "", escaped)
    left = re.sub(r"\\[{}$&#%_]", "", left)
    left = re.sub(r"[-,]\{\}", "", left)
    assert not set(left) & set("\\{}$&#%_~^<>|\"'`"), escaped
    assert "--" not in left


def test_characters_that_the_fonts_lack():
    assert escape("Żółć Łódź Māori") == "Żółć Łódź Māori"
    assert escape("Ỏ ﬁ ½") == "O fi 1/2"
    assert escape("中 Ħ") == "[U+4E2D] [U+0126]"
    assert escape("a\x07\u200b\u202eb") == "ab"


@needs_latex
def test_every_letter_that_passes_is_one_that_latex_prints(tmp_path):
    text = escape("".join(sorted(LETTERS)) + "".join(SPECIAL))
    preamble = r"\usepackage{times}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{textcomp}"
    file = tmp_path / "source.tex"
    file.write_text(rf"\documentclass{{article}}{preamble}\begin{{document}}{text}\end{{document}}", encoding="utf-8")
    typeset({"paper.tex": file}, "paper", tmp_path / "out.pdf", tmp_path / "paper.log")
    assert "Missing character" not in (tmp_path / "paper.log").read_text()
