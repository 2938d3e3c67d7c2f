"""One figure with its captions from its table: what the rule for figures runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import pandas as pd

from editlab.analysis.latex import escape
from editlab.analysis.registry import FIGURES, function
from editlab.analysis.style import save_figure
from editlab.analysis.wording import rst
from editlab.files.artifacts import write_text


def draw(figure: str, table: str, outputs: Mapping[str, str]) -> None:
    """Draw a figure of the registry from the CSV ``table``; ``outputs``: pdf, png and the captions rst and tex."""
    frame = pd.read_csv(table)
    entry = FIGURES[figure]
    caption = function(entry, f"{figure}_caption")(frame)
    save_figure(function(entry, figure)(frame), outputs["pdf"], outputs["png"])
    write_text(outputs["rst"], rst(caption) + "\n")
    write_text(outputs["tex"], escape(caption) + "\n")


def warm_up() -> None:
    """Import what every figure needs (:mod:`editlab.files.worker`)."""
    import matplotlib.pyplot  # noqa: F401

    for module in sorted({entry.module for entry in FIGURES.values()}):
        importlib.import_module(f"editlab.analysis.{module}")
