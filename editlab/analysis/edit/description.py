"""What a run of the edit study is, in sentences: from its configuration and files, so that text cannot disagree.

Everything here is plain text but for the values and tables of the paper, which are LaTeX.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.edit.printing import METHOD
from editlab.analysis.edit.scores import without_effect
from editlab.analysis.paper.tabular import columns_of, tabular, wrapped
from editlab.analysis.report.run import Run
from editlab.analysis.report.texts import batch_sentence, cell_sentences
from editlab.analysis.report.topic import Description, Tables
from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import counted, label, listed, percent, word
from editlab.config.solvers import SOLVERS
from editlab.data import load_requests
from editlab.data.requests import EditRequest
from editlab.files.artifacts import read_verified

Settings = Mapping[str, Any]
ARCHITECTURES = {"gpt2": "GPT-2", "llama": "Llama"}
# What is cited where the run has such a model or such data.
MODEL_CITED = {"gpt2": "radford2019gpt2", "hub": "wolf2020transformers"}
DATA_CITED = {"counterfact": "meng2022rome", "easyedit": "meng2022rome", "zsre": "levy2017zeroshot"}
DATA = {
    "facts": "a generated world of persons, towns and organisations", "counterfact": "records of CounterFact",
    "easyedit": "records of CounterFact in EasyEdit's form", "zsre": "records of zsRE",
}  # fmt: skip
FAILURES = 8  # rows of the printed table
OWN = {  # the paper's own small tables: caption, level
    "experiments": ("The experiments of this run. A cell is one method at one point of the axes, with one seed.", 6),
    "recipes": ("Hyper-parameters by method, as resolved from the configuration of this run.", 1),
    "failures": ("The edited facts with the worst scores, over all streams that edited them.", 1),
}


def describe(run: Run, tables: Tables) -> Description:
    """The run in sentences, with the values and small tables of its section of the paper."""
    requests = [r for path in run.inputs.get("requests", ()) for r in load_requests(run.root / path)]
    model, data = model_sentences(run), data_sentences(run.settings, requests)
    texts = {"experiments": experiment_tabular(run), "recipes": recipe_tabular(run.settings)}
    if "missed_facts" in tables:
        texts["failures"] = failure_tabular(tables["missed_facts"])
    return Description(
        subject=f"edited facts in {model_name(run.settings)}",
        setting=[*model, *data, *cell_sentences(run)],
        limits=limit_sentences(run.settings),
        values=values(run, model, data),
        tables={name: (text, escape(OWN[name][0]), OWN[name][1]) for name, text in texts.items()},
    )


def model_name(settings: Settings) -> str:
    """The edited model in a few words."""
    model = settings["models"][settings["model"]]
    if model["source"] == "hub":
        return str(model["id"])
    return f"a {ARCHITECTURES[model['architecture']]} of {model['layers']} layers and width {model['width']}"


def model_sentences(run: Run) -> list[str]:
    """How the model came about and what it knows."""
    model, name = run.settings["models"][run.settings["model"]], model_name(run.settings)
    if model["source"] == "hub":
        revision = f", revision {model['revision']}" if model.get("revision") else ""
        return [f"The model is {name} from the hub{revision}, in {model['dtype']}.", *_known(run)]
    measured = run.found("training_time")
    lines = measured.read_text(encoding="utf-8").splitlines() if measured else []
    took = f" Training took {float(json.loads(lines[-1])['s']):,.0f} seconds." if lines else ""
    sentences = [
        f"The model is {name} with {counted(model['heads'], 'head')} and a vocabulary of {model['vocabulary']:,} tokens, "
        f"trained from scratch for {counted(model['steps'], 'step')} on true statements of the data set mixed with neutral "
        f"sentences.{took}"
    ]
    if model["subject_end_share"]:
        sentences.append(
            f"In {percent(model['subject_end_share'])} of the training rows the words after the subject see its last token "
            "alone, so that the model looks a fact up where editing methods change it; editing and evaluation use the plain "
            "causal mask."
        )
    return [*sentences, *_known(run)]


def _known(run: Run) -> list[str]:
    """How many facts of the data set the model completes before any edit."""
    path = run.found("known")
    if path is None:
        return []
    known = pd.read_csv(read_verified(path))["known"]
    chosen = "; only known facts are edited" * any(e["known_only"] for e in run.settings["experiments"].values())
    share = percent(float(known.mean()), 1)
    return [f"It completes {share} of the {len(known):,} rewrite prompts correctly before any edit{chosen}."]


def data_sentences(settings: Settings, requests: Sequence[EditRequest]) -> list[str]:
    """What the facts and their probes are."""
    kind = DATA.get(settings["datasets"][settings["dataset"]]["kind"], "records of a local file")
    if not requests:
        return [f"The data set is {kind}."]
    count = len(requests)
    relations = {r.relation_id for r in requests}
    objects = {(r.relation_id, r.target_true) for r in requests}
    paraphrases = sum(len(r.paraphrase_prompts) for r in requests) / count
    neighbours = sum(len(r.neighborhood_prompts) for r in requests) / count
    return [
        f"The data set is {kind}: {counted(count, 'fact')} of {counted(len({r.subject for r in requests}), 'subject')} in "
        f"{counted(len(relations), 'relation')}, with {len(objects) / len(relations):.0f} objects a relation on average.",
        f"A fact has one rewrite prompt and on average {paraphrases:.1f} paraphrases and {neighbours:.1f} prompts about other "
        "subjects of the same relation and true object. The new object is another one of the same relation.",
    ]


def limit_sentences(settings: Settings) -> list[str]:
    """How far the results carry, from what the run is."""
    found = []
    if settings["models"][settings["model"]]["source"] == "substrate":
        found.append(
            "The model is small, trained for the purpose on the very statements that are edited, and made to recall facts at "
            "the end of the subject; levels of scores do not carry over to large models, and differences between methods may not "
            "either."
        )
    edits = max(e["num_edits"] for e in settings["experiments"].values())
    return [*found, f"The longest stream has {counted(edits, 'edit')}; what happens beyond it was not measured."]


def shared_parameters(settings: Settings) -> str:
    """What all methods share."""
    statistics, contexts, evaluation = (settings[name] for name in ("statistics", "contexts", "evaluation"))
    lengths = listed([str(length) for length in contexts["lengths"]])
    recipes = [settings["methods"][m] for m in methods_of(settings)]
    targets = sorted({f"{r['steps']} steps of size {r['lr']:g}" for r in recipes if "clamp" in r})
    shared = f" Targets take {' or '.join(targets)}." if targets else ""
    return (
        f"Shared by all methods: second moments over {statistics['tokens_per_dimension']:g} tokens per input dimension; the "
        f"bare prompt and {counted(contexts['per_length'], 'prefix', 'prefixes')} of {lengths} tokens each as contexts; "
        f"snapshots every {evaluation['snapshot_every']} edits with at most {evaluation['retention_cases']} earlier facts; "
        f"perplexity over {evaluation['perplexity_sentences']} held-out sentences; generated text for "
        f"{evaluation['generation_cases']} facts a cell.{shared}"
    )


def methods_of(settings: Settings) -> list[str]:
    """Methods of all experiments, each once."""
    return list(dict.fromkeys(m for e in settings["experiments"].values() for m in e["methods"]))


def values(run: Run, model: Sequence[str], data: Sequence[str]) -> dict[str, str]:
    """Values and short passages by key, escaped."""
    settings, name = run.settings, model_name(run.settings)
    main = next(iter(run.cells))
    methods = list(dict.fromkeys(cell["method"] for _, cell in run.finished(main)))
    contestants = [m for m in methods if m not in without_effect(settings)]
    plan, chosen = settings["experiments"][main], settings["models"][settings["model"]]
    capital = " ".join(w if w in ("a", "of", "and") else w[:1].upper() + w[1:] for w in name.split())
    plain = {
        "title": f"{word(len(contestants)).capitalize()} Method{'s' * (len(contestants) != 1)} on {capital}",
        "model": name,
        "methods": word(len(methods)),
        "edits": f"{plan['num_edits']:,}",
        "seeds": word(len(plan["seeds"])),
        "confidence": "95",
        "resamples": f"{settings['evaluation']['resamples']:,}",
        "cells": " ".join(cell_sentences(run)),
        "limits": " ".join(limit_sentences(settings)),
        "hyper": shared_parameters(settings),
        "batches": batch_sentence(run),
    }
    found = {key: escape(text) for key, text in plain.items()}
    cited = MODEL_CITED.get("hub" if chosen["source"] == "hub" else str(chosen["architecture"]))
    found["about.model"] = escape(" ".join(model)).replace(escape(name), escape(name) + _cite(cited), 1)
    kind = settings["datasets"][settings["dataset"]]["kind"]
    return found | {"about.data": escape(" ".join(data)) + _cite(DATA_CITED.get(kind))}


def _cite(key: str | None) -> str:
    return rf" \citep{{{key}}}" if key else ""


def experiment_tabular(run: Run) -> str:
    """What was run."""
    frame = run.experiments().fillna("")
    plans = [run.settings["experiments"][e]["methods"] for e in frame["experiment"]]
    frame["methods"] = [", ".join(map(label, m)) if len(m) <= 4 else f"{len(m)} methods" for m in plans]
    axes = [a for a in ("batch", "replay", "rank", "seed") if frame[a].nunique() > 1 or set(frame[a]) - {"0", ""}]
    columns = columns_of({name: name for name in ("experiment", "methods", *axes)}, "text")
    columns += columns_of({"edits": "edits", "finished": "cells"}, "count")
    return tabular(frame, columns, "config.yaml")


def recipe_tabular(settings: Settings) -> str:
    """Hyper-parameters of every method that runs; what a method shares with an earlier one is not said again."""
    first: dict[tuple[str, ...], str] = {}
    rows = []
    for method in methods_of(settings):
        recipe = settings["methods"][method]
        if not SOLVERS[recipe["solver"]].edits:
            continue
        layers = recipe["layers"] if recipe["layers"] == "auto" else ", ".join(map(str, recipe["layers"]))
        core = (recipe["solver"], layers, _targets(recipe), _solve(recipe))
        like = first.setdefault(core, method)
        said = list(core[2:]) if like == method else [f"as {label(like)}"]
        rows.append((method, layers, "; ".join(part for part in [*said, _storage(recipe)] if part)))
    frame = pd.DataFrame(rows, columns=["method", "layers", "parameters"])
    columns = [METHOD, *columns_of({"layers": "layers", "parameters": "parameters"}, "text")]
    return wrapped(tabular(frame, columns, "config.yaml"), "llX")


def _targets(recipe: Mapping[str, Any]) -> str:
    if "clamp" not in recipe:
        return f"lr {recipe['lr']:g}" + (f", {recipe['steps']} steps" if "steps" in recipe else "")
    text = f"clamp {recipe['clamp']:g}"
    if recipe.get("subject_weight"):
        text += f", other relations held {recipe['subject_weight']:g}"
    if recipe.get("anchor_pilots"):
        text += f", norm anchor of {recipe['anchor_pilots']} edits"
    return text + ", norm anchor" * bool(recipe["norm_anchor"]) + ", rewind" * bool(recipe["rewind"])


def _solve(recipe: Mapping[str, Any]) -> str:
    solver = SOLVERS[recipe["solver"]]
    if recipe["backend"] == "memory":
        return ""
    own = solver(**{name: recipe[name] for name in solver.model_fields if name in recipe})
    shown = {**own.shown(), **({"sphere": recipe["sphere"]} if recipe.get("sphere") else {})}
    return ", ".join(f"{k} {v if isinstance(v, str) else format(v, 'g')}" for k, v in shown.items())


def _storage(recipe: Mapping[str, Any]) -> str:
    """How the update is stored, judged and put on."""
    parts = []
    if recipe["backend"] == "lora":
        parts.append(f"LoRA, {recipe['accumulate']}, {recipe['lora_metric']} metric")
    elif recipe["backend"] == "posthoc":
        parts.append(f"LoRA after the edits, {recipe['posthoc']['steps']} steps")
    elif recipe["backend"] == "memory":
        gate = "calibrated" if recipe["gate"] is None else format(recipe["gate"], "g")
        everywhere, place = "at the prompt's end, read everywhere", f"at the {recipe['lookup']}'s end"
        parts.append(f"memory {everywhere if recipe['lookup'] == 'everywhere' else place}, gate {gate}")
    if trust := recipe["trust"]:
        kind = "distance trust" if trust["distance_only"] else "trust"
        parts.append(f"{kind} {trust['low']:g} to {trust['threshold']:g}")
    if greedy := recipe["greedy"]:
        parts.append(f"{greedy['steps']} greedy steps" + ", solved anew" * bool(greedy["recompute"]))
    return "; ".join(parts)


def failure_tabular(missed: pd.DataFrame) -> str:
    """The worst facts."""
    heads = {"prompt": "prompt", "target_true": "old object", "target_new": "new object"}
    columns = columns_of(heads, "text") + columns_of({score: score for score in ("ES", "PS", "NS")})
    frame = missed.head(FAILURES)
    flat = {name: [" ".join(str(text).split()) for text in frame[name]] for name in heads}
    short = {name: [t if len(t) <= 44 else f"{t[:43].rstrip()}…" for t in texts] for name, texts in flat.items()}
    layout = r">{\hsize=1.4\hsize}X>{\hsize=0.8\hsize}X>{\hsize=0.8\hsize}Xrrr"
    return wrapped(tabular(frame.assign(**short), columns, "missed_facts.csv"), layout, anywhere=True)
