"""How every figure looks: size, type, colours that colour-blind readers tell apart, and marks that survive in grey.

A method has its colour, marker, line and hatch in all figures, so that it is known by more than its colour. Figures are
7.7 cm wide (a column of the paper) and byte-stable: fonts embedded as TrueType, no dates, no random salts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from editlab.files.artifacts import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 7.7 / 2.54  # inches
GREY, LIGHT, DARK, BLACK = "#8c8c8c", "#d9d9d9", "#333333", "#000000"

HEAT = "cividis"  # rises in lightness, alike for colour-blind readers
# Okabe and Ito's palette without its yellow, which is too pale for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8B5A2B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oooo", "----", "++++")

SLOTS = {  # so that a method looks the same in every figure
    "rome": 3, "memit": 0, "emmet": 1, "alphaedit": 2, "ft": 4,
    "emmet_lora": 5, "memit_lora": 6, "alphaedit_lora": 7, "emmet_trust": 8, "emmet_greedy": 9,
}  # fmt: skip

RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same bytes on every machine
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 7),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 6.5),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width", "lines.markeredgewidth"), 0.6),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), DARK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "axes.formatter.use_mathtext"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow", "figure.constrained_layout.use"), True),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("grid.linewidth", "hatch.linewidth"), 0.5),
    "grid.color": "#e3e3e3", "legend.handlelength": 2.6, "lines.linewidth": 1.2, "lines.markersize": 3.6,
    "figure.dpi": 100, "savefig.dpi": 300, "pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "editlab",
    "text.parse_math": False,  # a $ in a name is a $
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mark:
    """How a method is drawn."""

    color: str
    marker: str
    line: Any
    hatch: str
    face: str

    def plot(self) -> dict[str, Any]:
        """Arguments of ``plot`` and ``errorbar``."""
        look = {"color": self.color, "marker": self.marker, "linestyle": self.line}
        return look | {"markerfacecolor": self.face, "markeredgecolor": self.color}


CONTROL_MARKS = {"none": Mark(BLACK, "|", (0, (1, 2)), "", BLACK), "random": Mark(GREY, "x", (0, (2, 2)), "", GREY)}


def marks(methods: Iterable[str]) -> dict[str, Mark]:
    """A mark for each method: its own slot where it has one, else the next free one, of a new color while there is one."""
    names = list(dict.fromkeys(methods))
    slots = {name: SLOTS[name] for name in names if name in SLOTS}
    for name in sorted(set(names) - set(slots) - set(CONTROL_MARKS)):
        colors = {slot % len(COLORS) for slot in slots.values()}
        free = [slot for slot in range(len(names) + len(SLOTS)) if slot not in slots.values()]
        slots[name] = next((slot for slot in free if slot % len(COLORS) not in colors), free[0])
    return {name: CONTROL_MARKS[name] if name in CONTROL_MARKS else mark_of(slots[name]) for name in names}


def mark_of(slot: int) -> Mark:
    """The mark of a slot; of the nth series, where series are no methods."""
    color = COLORS[slot % len(COLORS)]
    face = color if slot < len(COLORS) else "#ffffff"  # beyond the palette: hollow marks
    marker, line = MARKERS[(slot + slot // len(COLORS)) % len(MARKERS)], LINES[slot % len(LINES)]
    return Mark(color, marker, line, HATCHES[slot % len(HATCHES)], face)


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """What is drawn inside has the house style (seaborn's ticks with the settings above), and needs no display."""
    import matplotlib as mpl

    mpl.use("agg")
    import seaborn as sns

    with mpl.rc_context(), sns.axes_style("ticks"), mpl.rc_context(RC):
        yield


def save_figure(figure: Figure, pdf: str, png: str) -> None:
    """Write a figure as PDF and PNG without dates, so that equal data give equal bytes."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(RC):
        with atomic_path(pdf) as temporary:
            nothing = {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": "editlab"}
            figure.savefig(temporary, format="pdf", metadata=nothing)
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)
