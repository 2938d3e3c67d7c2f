"""A finding: one sentence and the number that it stands on. Verdicts are made here and nowhere else.

Captions, pages, the front page, the card and the paper repeat the sentences of findings; they decide nothing.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

from editlab.analysis.text.wording import leading, level_with, signed_with

ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence and the number that it stands on.

    Attributes:
        key: unique in a study; starts with the topic and a dot.
        sentence: plain text, one or two sentences.
        value, low, high: the number with its 95 % interval; NaN where there is none.
        n: cases, batches or cells that it stands on.
        supported: the interval bears out what the sentence claims; False for "no difference was found".
        source: name of the table with the numbers.
    """

    key: str
    sentence: str
    value: float
    low: float
    high: float
    n: int
    supported: bool
    source: str

    @property
    def topic(self) -> str:
        """What the key starts with."""
        return self.key.split(".")[0]

    def as_json(self, study: str) -> dict[str, Any]:
        """The fields in order as JSON values (an unknown number is None), with study, topic and the table's file."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        numbers = {name: None if math.isnan(x) else float(f"{x:.6g}") for name, x in named.items()}
        place = {"key": self.key, "study": study, "topic": self.topic, "sentence": self.sentence}
        return {**place, **numbers, "n": self.n, "supported": bool(self.supported), "source": f"{self.source}.csv"}


def cited(findings: Sequence[Finding], patterns: Sequence[str], most: int = 4) -> list[Finding]:
    """The findings that a caption repeats: pattern by pattern (``trust.auc_*``), supported ones first, ``most`` in all."""
    found: list[Finding] = []
    for pattern in patterns:
        matching = [f for f in findings if fnmatch.fnmatchcase(f.key, pattern) and f not in found]
        found += sorted(matching, key=lambda f: not f.supported)
    return found[:most]


def direction(low: float, high: float, up: str = "raises", down: str = "lowers") -> str | None:
    """The verb that an interval of a difference allows; None when it includes zero or is unknown."""
    return up if low > 0 else down if high < 0 else None


def difference_finding(
    key: str, row: Mapping[str, Any], subject: str, metric: str, source: str, tail: str = ""
) -> Finding:
    """``subject raises metric by ...``, ``changes it by ..., which its family does not support``, or ``makes no measurable
    difference to metric``, as interval and family allow.

    Args:
        row: with value, ci_low, ci_high and n; ``p_holm`` where it is one of a family of comparisons.
        subject: what was changed.
        tail: after the metric, such as " of MEMIT at batch 32".
    """
    numbers = float(row["value"]), float(row["ci_low"]), float(row["ci_high"])
    alone, p_holm = direction(*numbers[1:]), float(row.get("p_holm", 0.0))
    sure = alone is not None and p_holm < ALPHA
    if sure:
        sentence = f"{subject} {alone} {metric}{tail} by {size(*numbers)}."
    elif alone:  # too few streams for so many comparisons: that is not the same as no difference
        why = f"which the family of comparisons that it is one of does not support: p = {p_holm:.2f} after Holm's correction"
        sentence = f"{subject} changes {metric}{tail} by {signed_with(*numbers)}, {why}."
    else:
        why = "an interval that includes zero"
        sentence = f"{subject} makes no measurable difference to {metric}{tail}: {signed_with(*numbers)}, {why}."
    return Finding(key, sentence, *numbers, int(row["n"]), sure, source)


def leader_finding(
    key: str, rows: Sequence[tuple[str, float, float, float]], what: str, n: int, source: str, lead: str = ""
) -> Finding:
    """Who has the highest value, claimed only where the intervals part.

    Args:
        rows: (name, value, low, high), the highest first.
        what: as in :func:`editlab.analysis.text.wording.leading`, whose sentence follows ``lead``.
    """
    sure = len(rows) > 1 and rows[0][2] > max(row[3] for row in rows[1:])
    return Finding(key, lead + leading(rows, what), *rows[0][1:], n, sure, source)


def against_chance(low: float, high: float, chance: float) -> tuple[str, bool]:
    """What an interval allows to say of a score beside chance, and whether it says anything."""
    if low > chance:
        return "above chance", True
    return ("below chance", True) if high < chance else ("not distinguishable from chance", False)


def size(value: float, low: float, high: float, digits: int = 3) -> str:
    """The size of a difference whose direction a verb has told: ``0.030 (0.010 to 0.050)``."""
    ends = sorted((abs(low), abs(high)))
    return level_with(abs(value), ends[0], ends[1], digits)


def size_percent(value: float, low: float, high: float) -> str:
    """The same in percent: ``37 % (32 to 42 %)``."""
    ends = sorted((100 * abs(low), 100 * abs(high)))
    return f"{100 * abs(value):.0f} % ({ends[0]:.0f} to {ends[1]:.0f} %)"
