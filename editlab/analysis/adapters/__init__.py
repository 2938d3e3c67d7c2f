"""What the adapters study reports: its topics in the order in which they are told."""

from __future__ import annotations

from editlab.analysis.report.topic import Report

REPORT = Report(
    study="adapters",
    title="Adapters from behaviour",
    question=(
        "Can an adapter for a task that was never trained on be made from its description: generated, retrieved or merged, "
        "and does it help to supervise by what adapters do in place of what they are?"
    ),
    names=("generators", "distance", "retrieval", "merging", "deltas", "effort"),
    described=("adapter_gates",),
    headline="generators",
    abstract=("generators", "retrieval", "merging"),
)
