"""What the edit study reports: its topics in the order in which they are told."""

from __future__ import annotations

from editlab.analysis.report.topic import Report

REPORT = Report(
    study="edit",
    title="Knowledge editing",
    question=(
        "When a fact is edited in the weights of a language model: does the edit hold in other words, do other subjects keep "
        "their facts, and does it survive the edits that follow?"
    ),
    names=(
        "methods", "portability", "streams", "shortfalls", "passages", "batch", "replay", "forgetting", "capacity", "lora",
        "trust", "greedy", "retraining", "costs", "speed", "layers", "missed",
    ),
    described=("missed_facts",),
    headline="methods",
    abstract=("methods", "replay", "batch", "forgetting", "trust", "lora"),
)  # fmt: skip
