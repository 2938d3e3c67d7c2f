"""What a study is, in sentences: made from its configuration and the files of its run, so that text cannot disagree.

Everything here is plain text. The paper and the pages escape it for their own format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.run import Run
from editlab.analysis.wording import counted, label, listed, percent
from editlab.config.solvers import SOLVERS
from editlab.data.requests import EditRequest

ARCHITECTURES = {"gpt2": "GPT-2", "llama": "Llama"}
# Experiments that a study may have, by the section of the paper that would show them.
SECTIONS = {
    "methods": ("the methods", ("edit",)),
    "batch": ("the batch size", ("edit",)),
    "replay": ("replay", ("edit", "replay_ablation")),
    "forgetting": ("forgetting along a stream", ("edit", "large_scale")),
    "lora": ("low-rank edits", ("lora_ablation",)),
    "trust": ("trust and rollback", ("trust_eval",)),
    "greedy": ("greedy steps", ("greedy_eval",)),
    "retraining": ("retraining after edits", ("retraining",)),
    "costs": ("what the cells cost", ("edit",)),
}
QUESTION = (
    "When a fact is edited in the weights of a language model: does the edit hold in other words, do other subjects keep "
    "their facts, and does it survive the edits that follow?"
)


def model_name(study: Mapping[str, Any]) -> str:
    """The edited model in a few words."""
    model = study["models"][study["model"]]
    if model["source"] == "hub":
        return str(model["id"])
    return f"a {ARCHITECTURES[model['architecture']]} of {model['layers']} layers and width {model['width']}"


def model_sentences(run: Run) -> list[str]:
    """How the model came about and what it knows."""
    model, name = run.study["models"][run.study["model"]], model_name(run.study)
    if model["source"] == "hub":
        revision = f", revision {model['revision']}" if model.get("revision") else ""
        return [f"The model is {name} from the hub{revision}, in {model['dtype']}.", *_known(run)]
    training = run.training()
    took = f" Training took {training['seconds']:,.0f} seconds." if "seconds" in training else ""
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
    share, facts = run.known_share()
    if math.isnan(share):
        return []
    only = any(e["known_only"] for e in run.study["experiments"].values())
    chosen = "; only known facts are edited" if only else ""
    return [f"It completes {percent(share, 1)} of the {facts:,} rewrite prompts correctly before any edit{chosen}."]


def data_sentences(run: Run, requests: Sequence[EditRequest]) -> list[str]:
    """What the facts and their probes are."""
    data = run.study["datasets"][run.study["dataset"]]
    kind = {
        "facts": "a generated world of persons, towns and organisations",
        "counterfact": "records of CounterFact",
        "easyedit": "records of CounterFact in EasyEdit's form",
        "zsre": "records of zsRE",
    }.get(data["kind"], "records of a local file")
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


def cell_sentences(run: Run) -> list[str]:
    """How much was run, and what of it is there."""
    table = run.experiments()
    declared, finished = int(table["cells"].sum()), int(table["finished"].sum())
    state = "all of them finished" if finished == declared else f"{finished:,} of them finished"
    return [f"The study has {counted(declared, 'cell')} in {counted(len(table), 'experiment')}, {state}."]


def missing_sentences(run: Run) -> list[str]:
    """What a reader could look for and not find: absent experiments and unfinished cells."""
    declared = set(run.study["experiments"])
    absent = [title for title, experiments in SECTIONS.values() if not declared & set(experiments)]
    sentences = [f"This study has no experiment of its own on {listed(absent)}."] if absent else []
    unfinished = len(run.missing())
    if unfinished:
        sentences.append(
            f"{counted(unfinished, 'declared cell')} did not finish and {'is' if unfinished == 1 else 'are'} missing."
        )
    return sentences


def absent_sentence(section: str, study: Mapping[str, Any]) -> str:
    """In place of the results of a section that the study does not have."""
    title, experiments = SECTIONS[section]
    if set(experiments) & set(study["experiments"]):
        return f"The files of this study do not allow a statement about {title}."
    return f"This study has no experiment of its own on {title}; declaring {' or '.join(experiments)} adds it."


def limit_sentences(run: Run) -> list[str]:
    """How far the results carry, from what the study is."""
    model = run.study["models"][run.study["model"]]
    found = []
    if model["source"] == "substrate":
        found.append(
            "The model is small, trained for the purpose on the very statements that are edited, and made to recall facts at "
            "the end of the subject; levels of scores do not carry over to large models, and differences between methods may not "
            "either."
        )
    edits = max(e["num_edits"] for e in run.study["experiments"].values())
    found.append(f"The longest stream has {counted(edits, 'edit')}; what happens beyond it was not measured.")
    return found


def seeds_of(study: Mapping[str, Any], experiment: str) -> int:
    """Seeds of an experiment."""
    return len(study["experiments"][experiment]["seeds"])


def main_experiment(study: Mapping[str, Any]) -> str:
    """``edit``, or the first experiment of a study without it."""
    return "edit" if "edit" in study["experiments"] else next(iter(study["experiments"]))


def methods_of(study: Mapping[str, Any]) -> list[str]:
    """Methods of all experiments, each once."""
    return list(dict.fromkeys(m for e in study["experiments"].values() for m in e["methods"]))


def recipe_table(study: Mapping[str, Any], controls: Sequence[str] = ()) -> pd.DataFrame:
    """Hyper-parameters of the methods that run: method, layers, targets, solve, storage and guards."""
    rows = []
    for method in methods_of(study):
        recipe = study["methods"][method]
        if method in controls and not SOLVERS[recipe["solver"]].edits:
            continue
        rows.append(
            {
                "method": method,
                "solver": label(recipe["solver"]),
                "layers": recipe["layers"] if recipe["layers"] == "auto" else ", ".join(map(str, recipe["layers"])),
                "targets": _targets(recipe),
                "solve": _solve(recipe),
                "storage and guard": _guards(recipe),
            }
        )
    return pd.DataFrame(rows)


def target_steps(recipe: Mapping[str, Any]) -> str:
    """How long a target is optimised."""
    return f"{recipe['steps']} steps of size {recipe['lr']:g}"


def _targets(recipe: Mapping[str, Any]) -> str:
    if "clamp" not in recipe:
        return f"lr {recipe['lr']:g}, {recipe['steps']} steps"
    text = f"clamp {recipe['clamp']:g}"
    return text + ", norm anchor" * bool(recipe["norm_anchor"]) + ", rewind" * bool(recipe["rewind"])


def _solve(recipe: Mapping[str, Any]) -> str:
    solver = SOLVERS[recipe["solver"]]
    own = solver(**{name: recipe[name] for name in solver.model_fields if name in recipe})
    return ", ".join(f"{k} {v if isinstance(v, str) else format(v, 'g')}" for k, v in own.shown().items())


def _guards(recipe: Mapping[str, Any]) -> str:
    parts = []
    if recipe["backend"] == "lora":
        parts.append(f"LoRA, {recipe['accumulate']}, {recipe['lora_metric']} metric")
    elif recipe["backend"] == "posthoc":
        parts.append(f"LoRA after the edits, {recipe['posthoc']['steps']} steps")
    if recipe["trust"]:
        trust = recipe["trust"]
        kind = "distance trust" if trust["distance_only"] else "trust"
        parts.append(f"{kind} {trust['low']:g} to {trust['threshold']:g}")
    if recipe["greedy"]:
        greedy = recipe["greedy"]
        parts.append(f"{greedy['steps']} greedy steps" + ", solved anew" * bool(greedy["recompute"]))
    return "; ".join(parts) or "raw"
