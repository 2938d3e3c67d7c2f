"""The model card of a run, one page of Markdown: what ran, on what, how long, what was found, what failed or is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from editlab.analysis import prose
from editlab.analysis.paper import leading
from editlab.analysis.run import Run
from editlab.analysis.wording import counted, label, listed
from editlab.data.requests import EditRequest

MISSING_SHOWN = 12
FINDINGS_SHOWN = 9


def model_card(run: Run, requests: Sequence[EditRequest], findings: Sequence[Mapping[str, Any]]) -> str:
    """The text of ``results/summary.md``."""
    parts = [
        f"# Study `{run.study['study']}`",
        prose.QUESTION,
        "## What ran",
        _experiments(run),
        "## On what",
        " ".join(prose.model_sentences(run)),
        " ".join(prose.data_sentences(run, requests)),
        _versions(run),
        "## How long",
        _costs(run),
        "## What was found",
        _findings(findings),
        "## What failed or is missing",
        _missing(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _experiments(run: Run) -> str:
    table = run.experiments()
    lines = [
        "| experiment | methods | batch | replay | rank | seeds | edits a cell | cells finished |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        methods = ", ".join(map(label, run.study["experiments"][row["experiment"]]["methods"]))
        axes = " | ".join(str(row[a]) or "0" for a in ("batch", "replay", "rank", "seed"))
        lines.append(
            f"| {row['experiment']} | {methods} | {axes} | {row['edits']:,} | {row['finished']} of {row['cells']} |"
        )
    return "\n".join(lines)


def _versions(run: Run) -> str:
    versions = run.versions()
    named = [
        f"{name} {versions[name]}"
        for name in ("editlab", "python", "torch", "transformers", "peft", "snakemake")
        if name in versions
    ]
    digests = [run.digests(experiment) for experiment in run.cells]
    made_from = {kind: sorted({x for d in digests for x in d[kind]}) for kind in ("model", "requests", "code")}
    checksums = [f"{kind} `{'`, `'.join(values)}`" for kind, values in made_from.items() if values]
    return f"Made with {listed(named)}. Checksums: {listed(checksums)}." if named else ""


def _costs(run: Run) -> str:
    seconds = run.seconds()
    if seconds.empty:
        return "No cell has finished."
    cells = sum(len(run.finished(e)) for e in run.cells)
    wall, cpu = float(seconds["wall"].sum()), float(seconds["cpu"].sum())
    stages = [f"{stage} {100 * spent / cpu:.0f} %" for stage, spent in seconds["cpu"].items() if spent / cpu >= 0.01]
    training = run.training()
    before = f"Training the model took {_clock(training['seconds'])}. " if "seconds" in training else ""
    return (
        f"{before}{counted(cells, 'finished cell')} took {_clock(wall)} of wall time one after another ({_clock(cpu)} CPU, "
        f"{cpu / cells:.1f} s a cell): {', '.join(stages)}. A cell needed at most {run.peak_memory_mb():,.0f} MB."
    )


def _clock(seconds: float) -> str:
    if math.isnan(seconds) or seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    topics = [*prose.SECTIONS, *sorted({str(f["topic"]) for f in findings} - set(prose.SECTIONS))]
    chosen = leading(findings, topics, FINDINGS_SHOWN)
    if not chosen:
        return "Nothing yet: no experiment of this study has a table."
    return "\n".join(f"- {f['sentence']}" for f in chosen)


def _missing(run: Run) -> str:
    missing, decisions = run.missing(), run.decisions()
    lines = []
    if missing:
        lines.append(f"{counted(len(missing), 'declared cell')} without a result:")
        lines += [f"- `{_flat(directory)}`: {_flat(why)}" for directory, why in missing[:MISSING_SHOWN]]
        if len(missing) > MISSING_SHOWN:
            lines.append(f"- and {len(missing) - MISSING_SHOWN} more")
    else:
        lines.append("Every declared cell is finished.")
    counts = {kind: decisions[kind] for kind in ("rejected", "rolled_back", "scaled", "trust_error") if decisions[kind]}
    outcome = listed([f"{n} {kind.replace('_', ' ')}" for kind, n in counts.items()]) or "all were kept whole"
    batches = sum(decisions[d] for d in ("accepted", "scaled", "rolled_back", "rejected"))
    lines.append(
        f"\nOf {counted(batches, 'batch', 'batches')}: {outcome}; the ridge was raised in {decisions['ridge']}."
    )
    absent = [s for s in prose.missing_sentences(run) if "experiment" in s]
    return "\n".join(lines) + ("\n\n" + " ".join(absent) if absent else "")


def _flat(text: str) -> str:
    """One line that Markdown shows as it is."""
    return " ".join(text.split()).replace("`", "'").replace("<", "&lt;").replace("|", "\\|")[:160]
