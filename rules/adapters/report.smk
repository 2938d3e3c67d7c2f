# What the adapters study offers to the report: the tables of every seed and generator.


def adapter_cells(experiment):
    """The study has no experiments: its seeds are files of their own."""
    return []


def adapter_cell_files(experiment, name):
    return []


def adapter_scores():
    """Scores of references, retrieval and generators."""
    names = ("references.csv", "retrieval_scores.csv")
    return [f for name in names for f in adapters_files(name)] + generator_files(
        "scores.csv"
    )


def adapter_pools():
    """The pools: how they were made tells what a teacher costs."""
    return [
        f"{INPUTS}/adapters/seed~{seed}/shared.safetensors" for seed in ADAPTERS.seeds
    ]


REPORTED["adapters"] = {
    "experiments": [],
    "settings": ADAPTERS.model_dump(mode="json"),
    "cells": adapter_cells,
    "files": adapter_cell_files,
    "inputs": {
        "adapter_scores": adapter_scores,
        "adapter_pools": adapter_pools,
        "retrieved": lambda: adapters_files("retrieved.csv"),
        "merges": lambda: adapters_files("merge.csv"),
        "deltas": lambda: adapters_files("deltas.csv"),
        "pooling": lambda: adapters_files("pooling.csv"),
        "gates": lambda: adapters_files("gates.json"),
        "choices": lambda: generator_files("choices.csv"),
        "checks": lambda: generator_files("checks.json"),
    },
    "paths": {},
}
