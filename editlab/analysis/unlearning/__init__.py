"""What the unlearning study reports: its topics in the order in which they are told."""

from __future__ import annotations

from editlab.analysis.report.topic import Report

REPORT = Report(
    study="unlearning",
    title="Unlearning",
    question=(
        "When a model is made to forget facts, by full fine-tuning or by LoRA: are they gone, or does retraining on a part of "
        "them bring back the rest?"
    ),
    names=("recovery", "tradeoff", "epochs"),
    headline="unlearning",
    abstract=("recovery", "tradeoff"),
)
