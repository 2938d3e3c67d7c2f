"""What a run of the unlearning study is, in sentences: from its configuration, so that text cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Description, Tables
from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import counted, listed, percent
from editlab.analysis.unlearning.numbers import shown

Settings = Mapping[str, Any]


def describe(run: Run, tables: Tables) -> Description:
    """The run in sentences, with the values of its section of the paper."""
    del tables
    setting = [model_sentence(run.settings), data_sentence(run.settings), rule_sentence(run.settings)]
    return Description(
        subject=f"facts forgotten by {model_name(run.settings)}",
        setting=setting,
        limits=limits(run.settings),
        values={
            "model": escape(model_name(run.settings)),
            "setting": escape(" ".join(setting)),
            "limits": escape(" ".join(limits(run.settings))),
            "methods": escape(listed([shown(name) for name in run.settings["methods"]])),
            "seeds": escape(counted(len(run.settings["seeds"]), "seed")),
            "tau": escape(percent(run.settings["selection"]["tau"])),
        },
    )


def model_name(settings: Settings) -> str:
    """The model in a few words."""
    model = settings["model"]
    return (
        str(model["id"])
        if model["source"] == "hub"
        else f"a Llama of {model['layers']} layers and width {model['width']}"
    )


def model_sentence(settings: Settings) -> str:
    """How the model came to know what it must forget."""
    learned = settings["learn"]
    if learned is None:
        return f"The model is {model_name(settings)}, which knows the facts from its pre-training."
    return (
        f"The model is {model_name(settings)}; it learned the facts in {counted(learned['epochs'], 'epoch')} after everything "
        "else, so the model before that never knew them."
    )


def data_sentence(settings: Settings) -> str:
    """What is forgotten and what is retained."""
    data = settings["data"]
    if data["kind"] == "files":
        return f"It forgets {counted(len(data['forget_splits']), 'split')} of published questions and retains others."
    return (
        f"It forgets the birthdays of {data['splits'] * data['per_split']} invented people in "
        f"{counted(data['splits'], 'split')}, each of which is held out once, and retains other facts."
    )


def rule_sentence(settings: Settings) -> str:
    """How points were chosen."""
    chosen = settings["selection"]
    return (
        f"Of each grid the epoch with the lowest forget accuracy counts that keeps the accuracy on retained questions within "
        f"{percent(chosen['tau'])} on the half that it is chosen on; the other half is reported, and no attack is looked at."
    )


def limits(settings: Settings) -> list[str]:
    """How far the results carry."""
    found = []
    if settings["model"]["source"] == "trained":
        found.append(
            "The model is small and learned the facts by fine-tuning, which is the case in which published recovery is low; "
            "knowledge that is spread over pre-training may come back more easily."
        )
    return [*found, "Recovery is that of the attacks tried; a stronger one may bring back more."]
