"""Which sentences are told where, and what a run lacks: the same for every study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Report, Topic
from editlab.analysis.text.wording import counted, listed

Finding = Mapping[str, Any]  # of findings.json


def by_topic(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by topic, in their order."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(str(finding["topic"]), []).append(finding)
    return found


def leading(findings: Sequence[Finding], topics: Sequence[str], count: int) -> list[Finding]:
    """The first finding of each topic, supported ones before others, ``count`` at most."""
    topical = by_topic(findings)
    firsts = [max(topical[t], key=lambda f: bool(f["supported"])) for t in topics if topical.get(t)]
    chosen = sorted(firsts, key=lambda f: not f["supported"])[:count]
    return [f for f in firsts if f in chosen]


def told(findings: Sequence[Finding], most: int) -> list[str]:
    """The sentences of a topic: supported ones before others, in their order, and how many more there are."""
    ranked = sorted(range(len(findings)), key=lambda i: (not findings[i]["supported"], i))
    kept, rest = sorted(ranked[:most]), ranked[most:]
    sentences = [str(findings[i]["sentence"]) for i in kept]
    if rest:
        firm = sum(bool(findings[i]["supported"]) for i in rest)
        more = counted(len(rest), "more statement")
        sentences.append(f"The file of findings has {more} on this, {firm} with a clear result.")
    return sentences


def conclusion(report: Report, findings: Sequence[Finding]) -> list[str]:
    """What stands on a clear result, and what was looked at in vain."""
    about = {t.name: t.about for t in report.topics if t.about}
    firm = leading([f for f in findings if f["supported"]], list(about), 4)
    open_topics = {str(f["topic"]) for f in findings} - {str(f["topic"]) for f in findings if f["supported"]}
    titles = [about[t] for t in about if t in open_topics]
    unclear = [f"On {listed(titles)} the data of this run support no claim."] if titles else []
    return [*(str(f["sentence"]) for f in firm), *unclear]


def cell_sentences(run: Run) -> list[str]:
    """How much was run, and what of it is there."""
    declared, finished = (sum(map(len, cells)) for cells in (run.cells.values(), map(run.finished, run.cells)))
    state = "all of them finished" if finished == declared else f"{finished:,} of them finished"
    return [f"The run has {counted(declared, 'cell')} in {counted(len(run.cells), 'experiment')}, {state}."]


def missing_sentences(report: Report, run: Run) -> list[str]:
    """What a reader could look for and not find: absent experiments and unfinished cells."""
    wanted = {t.about: report.experiments(t) for t in report.topics if t.about}
    absent = [about for about, experiments in wanted.items() if experiments and not set(run.cells) & set(experiments)]
    sentences = [f"This run has no experiment of its own on {listed(absent)}."] if absent else []
    if unfinished := len(run.missing()):
        verb = "is" if unfinished == 1 else "are"
        sentences.append(f"{counted(unfinished, 'declared cell')} did not finish and {verb} missing.")
    return sentences


def absent_sentence(report: Report, topic: Topic, run: Run) -> str:
    """In place of the results of a topic that the run does not have."""
    experiments, about = report.experiments(topic), topic.about or topic.title.lower()
    if not experiments or set(experiments) & set(run.cells):
        return f"The files of this run do not allow a statement about {about}."
    return f"This run has no experiment of its own on {about}; declaring {' or '.join(experiments)} adds it."


def batch_sentence(run: Run) -> str:
    """How many batches were refused, and how many systems needed help."""
    decisions = run.decisions()
    kinds = ("accepted", "scaled", "rolled_back", "rejected")
    if not (batches := sum(decisions[d] for d in kinds)):
        return ""
    refused = [f"{decisions[d]:,} were {d.replace('_', ' ')}" for d in reversed(kinds[1:]) if decisions[d]]
    failed = f", trust failed in {decisions['trust_error']:,}" if decisions["trust_error"] else ""
    return (
        f"Of {counted(batches, 'batch', 'batches')} in all cells {listed(refused) or 'none was refused'}{failed}; "
        f"{decisions['ridge']:,} needed a raised ridge."
    )


def provenance_sentences(runs: Sequence[Run]) -> list[str]:
    """With what the numbers were made."""
    versions, named = [run.versions() for run in runs], []
    for name in ("python", "torch", "transformers", "numpy", "scipy"):
        if used := dict.fromkeys(found[name] for found in versions if name in found):
            named.append(f"{name} {', '.join(used)}")
    seconds = sum(float(run.seconds()["cpu"].sum()) for run in runs)
    sentences = [
        "Each cell keeps its resolved parameters, the checksums of its inputs and outputs, library versions and the seconds of "
        "every stage beside its results; a table reads a cell only after its checksum was compared."
    ]
    sentences += [f"The cells of this run used {listed(named)}."] if named else []
    if seconds:
        peak = max(run.peak_memory_mb() for run in runs if any(map(run.finished, run.cells)))
        sentences.append(f"They took {seconds / 3600:.2f} CPU hours and at most {peak:,.0f} MB of memory.")
    return sentences
