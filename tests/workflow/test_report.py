"""The report of a finished run: the page clicked through in a browser, the paper looked at with poppler.

The run is made up (tests/fabricated.py): every experiment, hostile text in the facts, and no model.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from browser import opened
from fabricated import HOSTILE, fabricate

from editlab.config.run import laid_over, load_run

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("report")]
STUDY = Path(__file__).with_name("report.yaml")
PAPER = "report/final_report.pdf"
FINISHED = ("--rerun-triggers", "mtime")  # the made-up cells have no Snakemake metadata
CM = 72 / 2.54
needs_latex = pytest.mark.skipif(
    not all(map(shutil.which, ("pdflatex", "bibtex", "pdftotext", "pdfinfo", "pdffonts"))),
    reason="LaTeX or poppler-utils is not installed (texlive-latex-base, -recommended, texlive-fonts-recommended, poppler-utils)",
)


@pytest.fixture(scope="module")
def reported(separate):
    """A made-up finished run with its page and card."""
    values = yaml.safe_load((separate.root / "config.yaml").read_text(encoding="utf-8"))
    values = laid_over(values, yaml.safe_load(STUDY.read_text(encoding="utf-8")))
    (separate.root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    fabricate(separate.root, load_run(values).edit)
    separate.run(*FINISHED, "--report-after-run", "--report", "report.html", configfile=None)
    return separate


@pytest.fixture(scope="module")
def paper(reported):
    """The typeset paper."""
    reported.run(PAPER, *FINISHED, configfile=None)
    return reported.root / PAPER


def output(*command) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


# ---- the page ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(reported):
    """The page in a browser, for the tests that click through it: (page, complaints)."""
    with opened(reported.root / "report.html") as found:
        yield found


def results_of(page):
    """(category, subcategory, label, kind, caption as text) of every result of the page."""
    return page.evaluate(
        """() => {
             const text = (html) => new DOMParser().parseFromString(html, "text/html").body.textContent;
             return Object.entries(categories).flatMap(([c, subs]) => Object.entries(subs).flatMap(([s, paths]) => paths.map(
               (p) => [c, s, Object.values(results[p].labels).join(" "), results[p].mime_type, text(results[p].caption)])));
           }"""
    )


def open_category(page, category, subcategory=None):
    """By the menu, as a reader does. The category of a page that has just one is called Results there."""
    page.evaluate("() => app.setView({navbarMode: 'menu'})")
    alone = page.evaluate("() => Object.keys(categories).length") == 1
    page.get_by_text("Results" if alone else category, exact=True).first.click()
    if subcategory:
        page.get_by_text(subcategory, exact=True).first.click()


def buttons_of(page, label):
    """The eye and the i of an entry."""
    return page.locator("tr", has=page.get_by_text(label, exact=True)).filter(has=page.locator("a")).first.locator("a")


def frame_of(page, label):
    """The interactive page behind an entry, opened by its eye."""
    open_category(page, "Knowledge editing", "Interactive")
    buttons_of(page, label).first.click()
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready=yes]").wait_for()
    return frame


def flat(text):
    """Printable text in one line."""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def test_the_front_page_has_question_headline_and_findings(shown):
    page, complaints = shown
    front = page.locator(".prose").first.inner_text()
    assert "Run default" in front
    assert "does the edit hold" in front
    assert re.search(r"EMMET\s.*0\.\d\d \[0\.\d\d, [01]\.\d\d\]", front)
    assert "Findings" in front
    assert complaints == []


def test_every_result_is_there_with_a_caption_that_states_numbers(shown, reported):
    page, complaints = shown
    found = results_of(page)
    figures = {p.stem for p in (reported.root / "results" / "figures").glob("*.png")}
    assert sum(mime == "image/png" for *_, mime, _ in found) == len(figures) >= 18
    assert sum(mime == "text/html" for *_, mime, _ in found) == 3
    for _, _, label, _, caption in found:
        assert re.search(r"\d", caption), (label, caption)
        assert len(caption.split()) > 5, (label, caption)
    labels = [(c, s, label) for c, s, label, *_ in found]
    assert len(set(labels)) == len(labels)
    assert complaints == []


def test_a_figure_opens_from_the_menu_and_its_caption_is_read(shown):
    page, complaints = shown
    category, topic, label, _, caption = next(r for r in results_of(page) if "Forgetting curves" in r[2])
    open_category(page, category, topic)
    buttons_of(page, label).nth(1).click()
    assert flat(page.locator(".prose-invert").inner_text()) == flat(caption)
    open_category(page, category, topic)
    buttons_of(page, label).first.click()
    image = page.locator("img[src^='data:image/png']")
    image.wait_for()
    assert image.evaluate("i => i.naturalWidth") > 300
    assert complaints == []


def test_the_table_of_cells_sorts_filters_and_exports(shown):
    page, complaints = shown
    frame = frame_of(page, "All cells")
    heads = frame.locator(".dt-scroll-headInner thead tr").first.locator("td, th")
    titles = heads.evaluate_all("heads => heads.map((h) => h.querySelector('.dt-column-title').textContent.trim())")

    def column(title):
        cells = "(rows, i) => rows.map((r) => r.querySelectorAll('td')[i].innerText)"
        return frame.locator("#cells tbody tr").evaluate_all(cells, titles.index(title))

    def becomes(title, values):
        frame.locator("#cells tbody").wait_for()
        for _ in range(50):
            if set(column(title)) == values:
                return True
            page.wait_for_timeout(100)
        return False

    first = [float(v.split()[0]) for v in column("S")]
    assert first == sorted(first, reverse=True)
    heads.nth(titles.index("S")).click()
    again = [float(v.split()[0]) for v in column("S")]
    assert again == sorted(again)
    assert again != first
    searches = frame.locator(".dt-scroll-headInner thead tr").nth(1).locator("td, th")
    searches.nth(titles.index("method")).locator("input").fill("alphaedit")
    assert becomes("method", {"alphaedit"})
    searches.nth(titles.index("method")).locator("input").fill("")
    frame.locator("#choose-when").select_option("immediate")
    frame.locator("#choose-experiment").select_option("replay_ablation")
    assert becomes("experiment", {"replay_ablation"})
    with page.expect_download() as download:
        frame.get_by_text("CSV", exact=True).click()
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        exported = list(csv.DictReader(file))
    assert {row["experiment"] for row in exported} == {"replay_ablation"}
    assert {row["when"] for row in exported} == {"immediate"}
    assert complaints == []


def test_the_curves_answer_to_their_choices(shown):
    page, complaints = shown
    frame = frame_of(page, "Along a stream")
    lines = frame.locator("#content svg g.mark-line path")
    before = lines.count()
    assert before > 3
    frame.locator("#choose-replay").select_option("0")
    page.wait_for_timeout(1000)
    assert 0 < lines.count() < before
    frame.locator("#choose-experiment").select_option("large_scale")
    frame.locator("#choose-metric").select_option(label="perplexity of held-out text")
    page.wait_for_timeout(1000)
    assert lines.count() == 3
    assert "800" in frame.locator("#content svg.marks").text_content()
    faint = "paths => paths.filter((p) => Number(p.getAttribute('opacity') ?? 1) < 0.5).length"
    assert lines.evaluate_all(faint) == 0
    names = frame.locator("#content svg g.role-legend-label text").all_text_contents()
    frame.locator("#content svg g.role-legend-symbol path").nth(names.index("EMMET")).click()
    page.wait_for_timeout(1000)
    assert lines.evaluate_all(faint) == 2
    assert complaints == []


def test_hostile_text_is_text_in_page_and_csv(shown, reported):
    page, complaints = shown
    frame = frame_of(page, "Missed facts")
    frame.locator("select.dt-input").select_option("-1")
    text = flat(frame.locator("#cells").inner_text())
    for part in (part for fact in HOSTILE for part in fact):
        assert flat(part) in text
    assert frame.locator("#cells b, #cells img, #cells script").count() == 0
    assert page.title() == "Snakemake Report"
    assert complaints == []
    with (reported.root / "results" / "tables" / "missed_facts.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in row)


def test_the_archive_holds_the_page_and_its_files(reported):
    reported.run(*FINISHED, "--report", "report.zip", configfile=None)
    with zipfile.ZipFile(reported.root / "report.zip") as archive:
        names = archive.namelist()
    assert "report/report.html" in names
    assert sum(name.endswith(".png") for name in names) >= 18
    assert sum(name.endswith(".html") for name in names) == 4


def test_the_model_card(reported):
    card = reported.read("results/summary.md").decode()
    assert "Every declared cell is finished." in card
    assert len(card.splitlines()) <= 60


# ---- the paper ---------------------------------------------------------------------------------------------------


@needs_latex
def test_the_paper_has_its_pages_sections_and_fonts(paper, reported):
    info = output("pdfinfo", paper)
    assert 6 <= int(re.search(r"Pages:\s+(\d+)", info)[1]) <= 8
    assert re.search(r"Page size:\s+595\.\d+ x 841\.\d+ pts \(A4\)", info)
    assert "CreationDate" not in info
    fonts = output("pdffonts", paper).splitlines()[2:]
    assert fonts
    assert all(re.search(r"\s(yes)\s+(yes|no)\s+(yes|no)\s+\d+\s+\d+$", line) for line in fonts), fonts
    assert any("NimbusRom" in line or "Times" in line for line in fonts)
    text = output("pdftotext", paper, "-")
    for title in (
        "Introduction", "Related Work", "Method", "Experiments", "Results and Discussion", "Failure Cases", "Conclusion",
        "Limitations", "References", "Hyper-Parameters", "Provenance",
    ):  # fmt: skip
        assert title in text
    assert "??" not in text
    log = reported.read("logs/build_paper-latex.log").decode(errors="replace")
    assert not re.findall(r"^(?:Overfull|.*undefined on input).*$", log, flags=re.MULTILINE)


@needs_latex
def test_two_columns_of_the_right_width(paper):
    boxes = output("pdftotext", "-bbox-layout", paper, "-")
    page = boxes.split("<page ")[2]
    lines = [
        tuple(map(float, m))
        for m in re.findall(r'<line xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" yMax="([\d.]+)"', page)
    ]
    left, right = 2.5 * CM, (2.5 + 7.7 + 0.6) * CM
    starts = [sum(abs(x - edge) < 1.5 for x, *_ in lines) for edge in (left, right)]
    assert min(starts) > 15
    for x, _, end, _ in lines:
        assert end <= 18.5 * CM + 3  # punctuation may hang over
        assert x >= left - 3


@needs_latex
def test_hostile_text_is_printed_as_text(paper):
    text = "".join(output("pdftotext", paper, "-").split())
    assert r"\input{/etc/" in text  # the rest may be in the next line of its column
    assert "root:x:0" not in text
    assert "<script>" in text
    assert "[U+4E" in text


@needs_latex
def test_two_builds_of_the_paper_are_the_same_bytes(paper, reported):
    before = paper.read_bytes()
    paper.unlink()
    shutil.rmtree(reported.root / "results" / "paper")
    reported.run(PAPER, *FINISHED, configfile=None)
    assert paper.read_bytes() == before
