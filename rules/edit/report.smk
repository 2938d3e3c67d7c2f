# What the edit study offers to the report: its cells, and what else tables are collected from.


def cells_of(experiment):
    """(folder, coordinates) of every cell of an experiment."""
    return list(zip(cell_directories(experiment), STUDY.cells(experiment)))


def retrained():
    """What retraining made of the cells of the experiment ``retraining``."""
    if "retraining" not in STUDY.experiments:
        return []
    own = f"{OUT}/edit/retraining/"
    paths = cell_paths("retraining")
    return [d.replace(own, f"{OUT}/retrained/") + ".csv" for d in paths]


def traced():
    """The effects of the layers of the model, where a recipe asks for them, where they are there, or where that takes
    seconds."""
    path = f"{INPUTS}/layers/{STUDY.model}/{STUDY.dataset}/indirect_effects.csv"
    asked = any(recipe.layers == "auto" for recipe in used_recipes())
    return [path] if small_model() or asked or Path(path).exists() else []


def benchmarks():
    """What was timed on this machine, and what the run times for its report."""
    found = {str(path) for path in Path(OUT, "benchmarks").glob("*.json")}
    return sorted(found | ({SPEED} if STUDY.measure_speed and small_model() else set()))


def trained_control():
    """The probes of the model that was trained on the new facts, where the run asks for one."""
    asked = STUDY.train_control and small_model() and "edit" in STUDY.experiments
    path = f"{OUT}/trained_control/{STUDY.model}/{STUDY.dataset}.csv"
    return [path] if asked and STUDY.evaluation.probe_cases else []


def records():
    """The requests of a data set that is a file: of a generated one every question stands alone."""
    known = isinstance(STUDY.datasets[STUDY.dataset], FileData)
    return [f"{INPUTS}/data/{STUDY.dataset}/requests.json"] if known else []


REPORTED["edit"] = {
    "experiments": list(STUDY.experiments),
    "settings": STUDY.model_dump(mode="json"),
    "cells": cells_of,
    "files": cell_files,
    "inputs": {
        "requests": lambda: [f"{INPUTS}/data/{STUDY.dataset}/requests.json"],
        "records": records,
        "retrained": retrained,
        "traced": traced,
        "trained_control": trained_control,
        "benchmarks": benchmarks,
    },
    "paths": {
        "known": f"{INPUTS}/known/{STUDY.model}/{STUDY.dataset}.csv",
        "training_time": f"{INPUTS}/benchmarks/rules/train_substrate/{STUDY.model}.jsonl",
    },
}
