"""Numbers and names as text, and text for the places where it is shown: HTML report (reStructuredText) and LaTeX.

Everything that comes from data or configuration goes through :func:`rst` or :func:`editlab.analysis.text.latex.escape` before
it is shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

NAMES = {
    "alphaedit": "AlphaEdit", "evoedit": "EvoEdit", "ft": "FT-L", "none": "unedited", "lora": "LoRA",
    "locft": "LocFT-BF", "crispedit": "CrispEdit", "ultra": "UltraEdit", "betaedit": "BetaEdit",
    **{name.lower(): name for name in ("ROME", "MEMIT", "EMMET", "RECT", "PRUNE", "NSE", "ENCORE")},
}  # fmt: skip
WHOLE = {
    "r_rome": "R-ROME", "ft_epochs": "FT in epochs", "ft_replay": "FT in epochs with replay", "ft_all": "FT all at once",
    "ultra_published": "UltraEdit as published", "in_context": "in-context editing",
}  # fmt: skip
SCORE_NAMES = {"ES": "efficacy (ES)", "PS": "paraphrase (PS)", "NS": "neighbourhood (NS)", "S": "composite (S)"}
MINUS = "−"


def label(name: str) -> str:
    """A method as it is shown: ``emmet_lora`` becomes ``EMMET LoRA``."""
    whole = next((known for known in WHOLE if f"{name}_".startswith(f"{known}_")), "")
    rest = [NAMES.get(part, part) for part in name[len(whole) :].split("_") if part]
    return " ".join([WHOLE[whole], *rest] if whole else rest)


def level(value: float, digits: int = 2) -> str:
    """A score: ``0.94``; an unknown one is a dash."""
    if math.isnan(value):
        return "–"
    return f"{value + 0.0:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference: ``+0.018`` or ``−0.018``, and ``0.000`` without a sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def interval(low: float, high: float, digits: int = 2, sign: bool = False) -> str:
    """``0.91 to 0.96``; empty where a side is unknown."""
    if math.isnan(low) or math.isnan(high):
        return ""
    show = signed if sign else level
    return f"{show(low, digits)} to {show(high, digits)}"


def level_with(value: float, low: float, high: float, digits: int = 2) -> str:
    """``0.94 (0.91 to 0.96)``."""
    edges = interval(low, high, digits)
    return f"{level(value, digits)} ({edges})" if edges else level(value, digits)


def signed_with(value: float, low: float, high: float, digits: int = 3) -> str:
    """``+0.018 (+0.007 to +0.029)``."""
    edges = interval(low, high, digits, sign=True)
    return f"{signed(value, digits)} ({edges})" if edges else signed(value, digits)


def percent(value: float, digits: int = 0) -> str:
    """A share as a percentage."""
    return "–" if math.isnan(value) else f"{level(100 * value, digits)} %"


def percent_with(value: float, low: float, high: float) -> str:
    """``37 % (32 % to 42 %)``."""
    return percent(value) if math.isnan(low) else f"{percent(value)} ({percent(low)} to {percent(high)})"


def listed(names: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def few(names: Sequence[str], most: int = 4) -> list[str]:
    """The first names, and how many more there are."""
    return [*names[:most], f"{len(names) - most} more"] if len(names) > most + 1 else list(names)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 seed``, ``1,200 cases``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def rst(text: str) -> str:
    """Text without any markup of reStructuredText: every character that could start some is escaped, lines are joined."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_|<>\[\]{}:.#=~^\"'+\-!$&@(),/;?%])", r"\\\1", flat)


def leading(rows: Iterable[tuple[str, float, float, float]], what: str, digits: int = 2) -> str:
    """A sentence on who has the highest value, which never claims more than the intervals allow.

    Args:
        rows: (name, value, low, high).
        what: the quantity, to follow "the highest".
    """
    known = sorted((r for r in rows if not math.isnan(r[1])), key=lambda r: -r[1])
    if not known:
        return f"No value of {what} is known."
    (name, value, low, high), *others = known
    number = level_with(value, low, high, digits)
    if not others:
        return f"{name}: {what} {number}."
    top = f"{name} has the highest {what}, {number}"
    overlapping = [other[0] for other in others if not low > other[3]]
    if not overlapping:
        return f"{top}; the next is {others[0][0]} with {level_with(*others[0][1:], digits)}."
    overlap = "interval of {} overlaps" if len(overlapping) == 1 else "intervals of {} overlap"
    return f"{top}; the {overlap.format(listed(overlapping))} with it."


WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def word(count: int) -> str:
    """A small number in words."""
    return WORDS[count] if count < len(WORDS) else f"{count:,}"
