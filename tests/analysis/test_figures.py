"""Figures: every registered one draws what its table says, the same bytes each time, in the size and type of the paper."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_tables import collected_tables, made_up_tables, write_benchmarks, write_cells

from editlab.analysis.draw import style
from editlab.analysis.edit import REPORT
from editlab.analysis.edit.speed import speed_table
from editlab.analysis.report.making import all_findings, caption_of, draw, print_table, read_table, read_tables
from editlab.analysis.statistics.classification import (
    band,
    on_grid,
    precision_area,
    precision_recall,
    roc,
    roc_area,
    roc_on_grid,
)
from editlab.analysis.statistics.intervals import area_interval
from editlab.errors import ArtifactError
from editlab.files.artifacts import write_csv, write_json

MATRIX = ("ablation_matrix", "costs", "curves", "comparisons")
WIDTH = 7.7 / 2.54 * 72  # points


def write_tables(root: Path, methods=None) -> None:
    """Every table under its name."""
    cells = write_cells(root / "cells", **({"methods": methods} if methods else {}))
    write_benchmarks(root / "benchmarks")
    tables = made_up_tables() | collected_tables(cells, MATRIX)
    tables["speed"] = speed_table(sorted((root / "benchmarks").glob("*.json")))
    tables["combined"] = tables["quick_validation"] = tables["ablation_matrix"]
    for name, table in tables.items():
        write_csv(root / f"{name}.csv", table)


def paths(root: Path) -> dict[str, str]:
    return {p.stem: str(p) for p in root.glob("*.csv")}


def caption(name: str, tables) -> str:
    topic, figure = REPORT.figures[name]
    return caption_of(topic, figure, tables)


def draw_all(root: Path, target: Path) -> None:
    """Every figure with its caption: what the rules do."""
    tables, suffixes = paths(root), {"pdf": "pdf", "png": "png", "rst": "caption.rst", "tex": "caption.tex"}
    for name, (topic, _) in REPORT.figures.items():
        draw("edit", topic.name, name, tables, {kind: str(target / f"{name}.{s}") for kind, s in suffixes.items()})
        (target / f"{name}.txt").write_text(caption(name, read_tables(tables)), encoding="utf-8")


def print_all(root: Path, target: Path) -> None:
    """Every printed table and the findings."""
    tables = read_tables(paths(root))
    for name, (topic, _) in REPORT.sheets.items():
        print_table(
            "edit", topic.name, name, tables, {k: target / f"{name}.{k}" for k in ("csv", "tex", "rst", "caption")}
        )
    write_json(target / "findings.json", all_findings("edit", tables))


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    write_tables(root)
    return root


@pytest.fixture(scope="module")
def drawn(tables, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("drawn")
    draw_all(tables, target)
    return target


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft"):
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Blocker())
sys.path[:0] = ["tests", "tests/analysis"]
from pathlib import Path
import test_figures
root, target = map(Path, sys.argv[1:])
test_figures.draw_all(root, target)
test_figures.print_all(root, target)
"""


def test_without_torch_and_with_other_hashes_the_bytes_are_the_same(tables, drawn, tmp_path):
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-c", BLOCKED, str(tables), str(tmp_path)]
    environment = {"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(repository), "TZ": "Asia/Tokyo"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for file in sorted(drawn.iterdir()):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
    assert {f"{name}.tex" for name in REPORT.sheets} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize("name", REPORT.figures)
def test_size_fonts_and_dates(drawn, name):
    pdf = (drawn / f"{name}.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", pdf)
    assert box is not None
    assert float(box[1]) == pytest.approx(WIDTH, abs=0.5)
    assert float(box[2]) < 700
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf
    assert b"Date" not in pdf
    assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", REPORT.figures)
def test_captions_state_n_and_an_interval(drawn, name):
    caption = (drawn / f"{name}.txt").read_text(encoding="utf-8")
    assert "n = " in caption
    assert "nan" not in caption
    assert re.search(r"\d( %)? to [+−]?\d|95 % interval", caption), caption


@pytest.mark.parametrize("name", REPORT.figures)
def test_an_empty_table_gives_a_figure_that_says_so(tables, name):
    import matplotlib.pyplot as plt

    _, declared = REPORT.figures[name]
    empty = read_table(tables / f"{declared.table}.csv").iloc[:0]
    figure = declared.drawn(empty)
    assert any(t.get_text() for axis in figure.axes for t in axis.texts)
    plt.close(figure)
    assert len(declared.told(empty)) > 10


@pytest.mark.parametrize("methods", [["memit"], ["none"], ["rome", "none"]])
def test_few_methods_are_drawn_too(tmp_path, methods):
    import matplotlib.pyplot as plt

    write_tables(tmp_path, methods)
    tables = read_tables(paths(tmp_path))
    for name, (_, declared) in REPORT.figures.items():
        if declared.table in MATRIX:
            plt.close(declared.drawn(tables[declared.table]))
            assert caption(name, tables)


def test_a_changed_number_changes_its_figure_and_caption_alone(tables, drawn, tmp_path):
    matrix = read_table(tables / "ablation_matrix.csv")
    chosen = (matrix["method"] == "emmet") & (matrix["protocol"] == "success")
    worse = matrix.copy()
    for column in ("ES", "ES_low", "ES_high", "S", "S_low", "S_high"):
        worse.loc[chosen, column] = 0.3
    figure = REPORT.figures["method_comparison"][1].drawn(worse)
    style.save_figure(figure, tmp_path / "a.pdf", tmp_path / "a.png")
    assert (tmp_path / "a.pdf").read_bytes() != (drawn / "method_comparison.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (drawn / "method_comparison.png").read_bytes()
    found = read_tables(paths(tables))
    changed = found | {"ablation_matrix": worse}
    assert caption("method_comparison", changed) != caption("method_comparison", found)
    assert caption("forgetting_curves", changed) == caption("forgetting_curves", found)


def test_dollars_and_markup_in_names_are_text(tables, tmp_path):
    curves = read_table(tables / "curves.csv")
    curves["method"] = curves["method"].replace({"memit": "$x^2$ <b>&\\input{x}"})
    figure = REPORT.figures["forgetting_curves"][1].drawn(curves)
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "$x^2$ <b>&\\input{x}" in labels
    style.save_figure(figure, str(tmp_path / "a.pdf"), str(tmp_path / "a.png"))


def test_marks_differ_without_colour():
    names = ["rome", "memit", "emmet", "alphaedit", "ft", "emmet_lora", "emmet_trust", "none", "random"]
    marks = style.marks(names)
    assert list(marks) == names
    looks = [(mark.marker, mark.line, mark.face != "#ffffff") for mark in marks.values()]
    assert len({repr(look) for look in looks}) == len(names)
    assert style.marks(["memit", "rome"])["rome"] == marks["rome"]


def test_every_method_of_a_figure_has_its_own_colour_while_there_are_enough():
    for names in (["emmet", "emmet_trust", "emmet_trust_distance", "none"], ["emmet_greedy", "a", "b", "memit"]):
        marks = style.marks(names)
        assert len({mark.color for mark in marks.values()}) == len(names)
    many = style.marks([f"m{i}" for i in range(14)])
    assert len({(m.color, m.marker, m.face) for m in many.values()}) == 14


def test_colours_differ_in_lightness_or_hue():
    def lightness(color: str) -> float:
        red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    assert max(map(lightness, style.COLORS)) < 0.55  # every line stands out from the paper
    assert len(set(style.COLORS)) == len(style.COLORS)


def test_area_has_an_interval_that_holds_it(tables):
    decisions = read_table(tables / "trust_decisions.csv")
    part = decisions[(decisions["method"] == "emmet_trust") & (decisions["experiment"] == "trust_eval")]
    value, low, high = roc_area(part)
    assert low <= value <= high
    assert low > 0.5
    shuffled = part.assign(trust=np.random.default_rng(0).permutation(part["trust"]))
    value, low, high = roc_area(shuffled)
    assert low < 0.5 < high


def test_curves_of_drawn_batches_are_those_of_the_batches_themselves():
    """Counts of drawn rows against the curves of the drawn rows (scikit-learn's)."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        frame = pd.DataFrame({"trust": rng.integers(6, size=12) / 5, "harmful": rng.random(12) < 0.4})
        frame.loc[:1, "harmful"] = [True, False]
        rows = np.r_[0, 1, rng.integers(12, size=10)]
        counts = np.bincount(rows, minlength=12)[None].astype(float)
        drawn = frame.iloc[rows]
        curve, grid = roc(drawn), np.linspace(0, 1, 101)
        place = np.searchsorted(curve["false_positive_rate"], grid, side="right") - 1
        assert roc_on_grid(frame, counts)[0] == pytest.approx(curve["true_positive_rate"].to_numpy()[place])
        curve = precision_recall(drawn)
        place = np.minimum(np.searchsorted(curve["recall"], grid - 1e-12), len(curve) - 1)
        expected = curve["precision"].to_numpy()[place]
        from editlab.analysis.statistics.classification import precision_on_grid

        assert precision_on_grid(frame, counts)[0] == pytest.approx(expected)
        assert on_grid(drawn, precision_on_grid) == pytest.approx(expected)


@pytest.mark.parametrize(("area", "positives", "negatives"), [(1.0, 3, 45), (0.92, 3, 45), (0.5, 20, 20), (0.0, 4, 9)])
def test_the_score_interval_of_an_area(area, positives, negatives):
    low, high = area_interval(area, positives, negatives)
    assert 0 <= low <= area <= high <= 1
    assert high - low > 0.05  # a perfect curve of three batches is no certainty
    narrow = area_interval(area, 10 * positives, 10 * negatives)
    assert narrow[1] - narrow[0] < high - low


def test_bands_have_a_width_for_a_perfect_curve():
    frame = pd.DataFrame({"trust": [0.1, 0.2, 0.3, *np.linspace(0.5, 0.9, 20)], "harmful": [True] * 3 + [False] * 20})
    low, high = band(frame, roc_on_grid)
    assert (high == 1).all()
    assert (low < 0.6).all()
    value, low_area, high_area = precision_area(frame)
    assert low_area < value == high_area == 1.0


def test_benchmarks_are_read_and_toys_left_out(tmp_path):
    write_benchmarks(tmp_path)
    table = speed_table([tmp_path / "targets.json"])
    assert set(table["series"]) == {"batched", "one by one"}
    assert table["speedup"].dropna().tolist() == [6.5]
    (tmp_path / "toy.json").write_text('{"benchmark": "targets", "quick": true}')
    assert speed_table([tmp_path / "toy.json"]).empty
    (tmp_path / "bad.json").write_text('{"benchmark": "targets"}')
    with pytest.raises(ArtifactError, match=r"bad\.json: not a benchmark result"):
        speed_table([tmp_path / "bad.json"])
