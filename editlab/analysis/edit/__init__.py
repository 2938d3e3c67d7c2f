"""What the edit study reports: its topics in the order in which they are told."""

from __future__ import annotations

from editlab.analysis.edit import methods
from editlab.analysis.report.topic import Description, Report

REPORT = Report(
    study="edit",
    title="Knowledge editing",
    question="",
    topics=(methods.TOPIC,),
    describe=lambda run, tables: Description("edited facts"),
)
