"""What the edit study reports: its topics in the order in which they are told."""

from __future__ import annotations

from editlab.analysis.edit import (
    batch,
    costs,
    forgetting,
    greedy,
    layers,
    lora,
    methods,
    missed,
    replay,
    retraining,
    speed,
    trust,
)
from editlab.analysis.edit.description import describe
from editlab.analysis.edit.pages import PAGES
from editlab.analysis.report.topic import Report

MODULES = (methods, batch, replay, forgetting, lora, trust, greedy, retraining, costs, speed, layers, missed)
REPORT = Report(
    study="edit",
    title="Knowledge editing",
    question=(
        "When a fact is edited in the weights of a language model: does the edit hold in other words, do other subjects keep "
        "their facts, and does it survive the edits that follow?"
    ),
    topics=tuple(module.TOPIC for module in MODULES),
    describe=describe,
    described=("missed_facts",),
    pages=PAGES,
    headline="methods",
    abstract=("methods", "replay", "batch", "forgetting", "trust", "lora"),
)
