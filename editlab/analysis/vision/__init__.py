"""What the vision study reports: its topics in the order in which they are told."""

from __future__ import annotations

from editlab.analysis.report.topic import Report

REPORT = Report(
    study="vision",
    title="Errors of image classifiers",
    question=(
        "When the errors of a vision transformer are edited away: do the edits reach other errors, what do they break, and do "
        "they gain anything beyond what a random change or another training gains?"
    ),
    names=("methods", "errors", "location", "search"),
    headline="vision_methods",
    abstract=("methods", "location", "search"),
)
