"""The generated part of the paper: every value, finding and caption that ``report/paper/paper.tex`` fetches.

The sources hold words and equations. What depends on the study comes from here as definitions (``\\defvalue``,
``\\deffindings``, ``\\deffigure``, ``\\deftable``), all text escaped, so that a missing experiment gives a sentence in
place of a section, and data cannot become commands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis import prose
from editlab.analysis.latex import escape
from editlab.analysis.registry import FIGURES, SHEETS
from editlab.analysis.run import Run
from editlab.analysis.wording import counted, listed
from editlab.data.requests import EditRequest

Finding = Mapping[str, Any]
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ABSTRACT = ("methods", "replay", "batch", "forgetting", "trust", "lora")  # topics, most telling first
# What is cited where the study has such a model or such data.
MODEL_CITED = {"gpt2": ("radford2019gpt2",), "hub": ("wolf2020transformers",)}
DATA_CITED = {"counterfact": "meng2022rome", "easyedit": "meng2022rome", "zsre": "levy2017zeroshot"}
# Sentences of a section at most; all of them are in results/findings.json.
SENTENCES, USUALLY = {"methods": 4, "trust": 4, "costs": 2, "retraining": 2}, 3
# Figures and tables give way, the highest level first, until the paper has the pages that it may have.
LEVELS = {
    **dict.fromkeys(("trust_roc", "replay_batch_heatmap"), 2),
    **dict.fromkeys(("rank_tradeoff", "rollback_effect_curve"), 3),
    **dict.fromkeys(("large_scale_forgetting", "greedy_gain_by_step"), 4),
    **dict.fromkeys(("batch_size",), 5),
    **dict.fromkeys(("trust", "lora", "experiments"), 6),
    **dict.fromkeys(("retention_by_age", "replay_gain", "time_split"), 7),
    **dict.fromkeys(("retraining", "replay_ablation", "forgetting", "greedy", "baselines", "combined"), 8),
    **dict.fromkeys(
        ("greedy_trust_gain", "trust_pr", "method_radar", "greedy_acceptance_by_layer", "speed_benchmark"), 9
    ),
    **dict.fromkeys(("layer_importance", "costs", "ablation", "batch_effect", "replay_effect", "quick_validation"), 9),
}
DETAIL = max(LEVELS.values())


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


def generated(
    run: Run,
    requests: Sequence[EditRequest],
    findings: Sequence[Finding],
    figures: Mapping[str, str],
    tables: Mapping[str, str],
    failures: pd.DataFrame,
) -> str:
    """The text of ``generated.tex``.

    Args:
        figures, tables: by name, the caption in LaTeX of those that the study has.
        failures: of :func:`editlab.analysis.failures.missed_facts`.
    """
    lines = ["% Made by the workflow from results/; not to be edited."]
    lines += [_define("value", key, text) for key, text in values(run, requests).items()]
    lines += [
        _define("findings", key, text) for key, text in sections(run, findings, failures, figures, tables).items()
    ]
    firsts = leading(findings, [t for t in prose.SECTIONS if t != "costs"], 5)
    items = "".join(rf"\item {escape(f['sentence'])} " for f in firsts)
    lines.append(
        _define("list", "introduction", rf"\begin{{itemize}}\tight {items}\end{{itemize}}" if items else _nothing())
    )
    for kind, shown in (("figure", figures), ("table", tables)):
        for name, caption in shown.items():
            level = LEVELS.get(name, 1)
            lines.append(rf"\atdetail{{{level}}}{{{_define(kind, name, caption)}}}")
    return "\n".join([*lines, ""])


def _define(kind: str, key: str, text: str) -> str:
    return rf"\def{kind}{{{key}}}{{{text}}}"


def _nothing() -> str:
    return escape("The files of this study do not support a statement yet.")


def values(run: Run, requests: Sequence[EditRequest]) -> dict[str, str]:
    """Values and short passages by key, escaped."""
    study = run.study
    main = prose.main_experiment(study)
    methods = list(dict.fromkeys(cell["method"] for _, cell in run.finished(main)))
    contestants = [m for m in methods if m not in run.controls()]
    model, data = study["models"][study["model"]], study["datasets"][study["dataset"]]
    cite = _cite(*MODEL_CITED.get("hub" if model["source"] == "hub" else str(model["architecture"]), ()))
    name = prose.model_name(study)
    plain = {
        "study.name": study["study"],
        "study.title": f"{_word(len(contestants)).capitalize()} Method{'s' * (len(contestants) != 1)} on {_title(name)}",
        "model.short": name,
        "methods.count": _word(len(methods)),
        "edits.each": f"{study['experiments'][main]['num_edits']:,}",
        "seeds.count": _word(prose.seeds_of(study, main)),
        "statistics.confidence": "95",
        "statistics.resamples": f"{study['evaluation']['resamples']:,}",
        "prose.cells": " ".join(prose.cell_sentences(run)),
        "prose.limits": " ".join(prose.limit_sentences(run)),
        "prose.missing": " ".join(prose.missing_sentences(run)),
        "prose.hyper": " ".join(shared_parameters(run)),
        "prose.provenance": " ".join(provenance_sentences(run)),
    }
    found = {key: escape(text) for key, text in plain.items()}
    found["prose.model"] = escape(" ".join(prose.model_sentences(run))).replace(escape(name), escape(name) + cite, 1)
    sentences = " ".join(prose.data_sentences(run, requests))
    found["prose.data"] = escape(sentences) + _cite(*[DATA_CITED[k] for k in (data["kind"],) if k in DATA_CITED])
    found["prose.recipes"] = r"Appendix~\ref{sec:hyper} lists the hyper-parameters of every method."
    return found


def _cite(*keys: str) -> str:
    return rf" \citep{{{','.join(keys)}}}" if keys else ""


def _word(count: int) -> str:
    return WORDS[count] if count < len(WORDS) else f"{count:,}"


def _title(name: str) -> str:
    small = {"a", "of", "and"}
    return " ".join(w if w in small else w[:1].upper() + w[1:] for w in name.split())


def sections(
    run: Run, findings: Sequence[Finding], failures: pd.DataFrame, figures: Mapping[str, str], tables: Mapping[str, str]
) -> dict[str, str]:
    """The sentences of every section, or the one that says what is missing."""
    topical = by_topic(findings)
    found = {}
    for section in prose.SECTIONS:
        sentences = told(topical.get(section, []), SENTENCES.get(section, USUALLY))
        found[section] = escape(" ".join(sentences) if sentences else prose.absent_sentence(section, run.study))
    found["abstract"] = escape(" ".join(str(f["sentence"]) for f in leading(findings, ABSTRACT, 3))) or _nothing()
    found["conclusion"] = escape(" ".join(_conclusion(findings))) or _nothing()
    found["failures"] = escape(" ".join(failure_sentences(run, failures)))
    return found


def told(findings: Sequence[Finding], most: int) -> list[str]:
    """The sentences of a section: supported ones before others, in their order, and how many more there are."""
    ranked = sorted(range(len(findings)), key=lambda i: (not findings[i]["supported"], i))
    kept, rest = sorted(ranked[:most]), ranked[most:]
    sentences = [str(findings[i]["sentence"]) for i in kept]
    if rest:
        firm = sum(bool(findings[i]["supported"]) for i in rest)
        sentences.append(
            f"The file of findings has {counted(len(rest), 'more statement')} on this, {firm} with a clear result."
        )
    return sentences


def _conclusion(findings: Sequence[Finding]) -> list[str]:
    """What stands on a paired test, and how much was looked at in vain."""
    firm = leading([f for f in findings if f["supported"]], list(prose.SECTIONS), 4)
    open_topics = sorted({str(f["topic"]) for f in findings} - {str(f["topic"]) for f in findings if f["supported"]})
    sentences = [str(f["sentence"]) for f in firm]
    if open_topics:
        titles = [prose.SECTIONS[t][0] if t in prose.SECTIONS else t for t in open_topics]
        sentences.append(f"On {listed(titles)} the data of this study support no claim.")
    return sentences


def failure_sentences(run: Run, failures: pd.DataFrame) -> list[str]:
    """How many facts are missed, and which kind of batch failed."""
    decisions = run.decisions()
    batches = sum(decisions[d] for d in ("accepted", "scaled", "rolled_back", "rejected"))
    sentences = []
    if len(failures):
        lost = failures[failures["ES"] < 0.5]
        worst = failures.iloc[0]
        sentences.append(
            f"Averages hide that misses are not spread evenly: {counted(len(lost), 'fact')} kept the old object in more than "
            f"half of the streams that edited {'it' if len(lost) == 1 else 'them'}, the worst with an efficacy of "
            f"{worst['ES']:.2f} over {counted(int(worst['streams']), 'stream')}."
        )
    else:
        sentences.append("No edited fact failed on its rewrite prompt or paraphrases.")
    refused = {d: decisions[d] for d in ("rejected", "rolled_back", "scaled") if decisions[d]}
    outcome = (
        listed([f"{count:,} were {kind.replace('_', ' ')}" for kind, count in refused.items()]) or "none was refused"
    )
    sentences.append(
        f"Of {counted(batches, 'batch', 'batches')} in all cells {outcome}; {decisions['ridge']:,} needed a raised ridge."
    )
    return sentences


def shared_parameters(run: Run) -> list[str]:
    """What all methods share."""
    study = run.study
    statistics, contexts, evaluation = study["statistics"], study["contexts"], study["evaluation"]
    lengths = listed([str(length) for length in contexts["lengths"]])
    targets = {
        prose.target_steps(r) for r in (study["methods"][m] for m in prose.methods_of(study)) if r["solver"] != "ft"
    }
    shared = f" Targets take {' or '.join(sorted(targets))}." if targets else ""
    return [
        f"Shared by all methods: second moments over {statistics['tokens_per_dimension']:g} tokens per input dimension; the "
        f"bare prompt and {counted(contexts['per_length'], 'prefix', 'prefixes')} of {lengths} tokens each as contexts; "
        f"snapshots every {evaluation['snapshot_every']} edits with at most {evaluation['retention_cases']} earlier facts; "
        f"perplexity over {evaluation['perplexity_sentences']} held-out sentences; generated text for "
        f"{evaluation['generation_cases']} facts a cell.{shared}"
    ]


def provenance_sentences(run: Run) -> list[str]:
    """With what the numbers were made."""
    versions, seconds = run.versions(), run.seconds()
    named = [
        f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "numpy", "scipy") if name in versions
    ]
    sentences = [
        "Each cell keeps its resolved parameters, the checksums of its inputs and outputs, library versions and the seconds of "
        "every stage beside its results; a table reads a cell only after its checksum was compared."
    ]
    if named:
        sentences.append(f"The cells of this study ran with {listed(named)}.")
    if len(seconds):
        sentences.append(
            f"They took {seconds['cpu'].sum() / 3600:.2f} CPU hours and at most {run.peak_memory_mb():,.0f} MB of memory."
        )
    return sentences


def captions(files: Sequence[str], suffix: str) -> dict[str, str]:
    """Captions by short name of the figure or table: the text of the files."""
    return {short(f, suffix): Path(f).read_text(encoding="utf-8").strip() for f in files}


def short(file: str, suffix: str = "") -> str:
    """Name of a figure or table in the paper: without folder and ending, and without the model of layer_importance."""
    return Path(file).name.removesuffix(suffix or Path(file).suffix).split("-")[0]


def sources(figures: Collection[str], tables: Collection[str]) -> dict[str, str]:
    """By file, the figures and tables that it is behind (see :mod:`editlab.analysis.registry`), as text."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, names, entries in (("figure", figures, FIGURES), ("table", tables, SHEETS)):
        for name in names:
            for file in entries[name].sources.values() if name in entries else ():
                found.setdefault(file, {}).setdefault(kind, []).append(name)
    return {
        file: "; ".join(f"{kind} {', '.join(dict.fromkeys(names))}" for kind, names in kinds.items())
        for file, kinds in found.items()
    }
