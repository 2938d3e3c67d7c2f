"""What a run of the vision study is, in sentences: from its configuration, so that text cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editlab.analysis.report.run import Run
from editlab.analysis.report.texts import cell_sentences
from editlab.analysis.report.topic import Description, Tables
from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import counted, listed, word

DATA = {
    "digits": "handwritten digits (8 x 8 pixels, 10 classes)",
    "medmnist": "medical images of MedMNIST",
    "liver": "ultrasound images of liver fibrosis",
}


def describe(run: Run, tables: Tables) -> Description:
    """The run in sentences, with the values of its section of the paper."""
    settings = run.settings
    model, data = _models(settings), _data(settings)
    seeds, draws = len(settings["seeds"]), settings["draws"]
    plan = (
        f"{counted(seeds, 'classifier')} of each data set; each method is given {counted(draws, 'draw')} of at most "
        f"{settings['max_edits']} discovery errors."
    )
    methods = list(settings["methods"])
    limits = _limits(settings)
    values = {
        "data": listed(list(settings["datasets"])),
        "methods": word(len(methods)),
        "seeds": word(seeds),
        "draws": word(draws),
        "edits": str(settings["max_edits"]),
        "clamp": _clamp(settings),
        "about": " ".join([*model, *data]),
        "cells": " ".join(cell_sentences(run)),
        "limits": " ".join(limits),
        "title": f"Errors of Image Classifiers on {listed(list(settings['datasets']))}",
    }
    return Description(
        subject=f"errors on {listed(list(settings['datasets']))}",
        setting=[*model, *data, plan, *cell_sentences(run)],
        limits=limits,
        values={key: escape(text) for key, text in values.items()},
    )


def _models(settings: Mapping[str, Any]) -> list[str]:
    sentences = []
    for name in dict.fromkeys(data["model"] for data in settings["datasets"].values()):
        model = settings["models"][name]
        if model["source"] == "hub":
            sentences.append(f"The classifier is {model['id']}, fine-tuned with a new head.")
        else:
            sentences.append(
                f"The classifier is a vision transformer of {model['layers']} blocks x {model['width']} with patches of "
                f"{model['patch']} pixels, trained from scratch for {model['training']['epochs']} epochs."
            )
    return sentences


def _clamp(settings: Mapping[str, Any]) -> str:
    """How far a target may lie from the state that it replaces."""
    found = {recipe["clamp"] for recipe in settings["methods"].values() if "clamp" in recipe}
    limits = sorted(c for c in found if c is not None)
    if not limits:
        return "however far that is"
    reach = f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}"
    free = ", in some recipes without a limit" if None in found else ""
    return f"at most {reach} times the norm of h away{free}"


def _data(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {DATA[data['kind']]}, {data['ft_train_ratio']:g} of the training part for training and the rest to find errors."
        for name, data in settings["datasets"].items()
    ]


def _limits(settings: Mapping[str, Any]) -> list[str]:
    found = []
    if all(data["kind"] == "digits" for data in settings["datasets"].values()):
        found.append("The images are small and easy; what holds here need not hold for photographs.")
    if len(settings["seeds"]) < 3:
        found.append("Fewer than three classifiers say little about how results vary with training.")
    return found
