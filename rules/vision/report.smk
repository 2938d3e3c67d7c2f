# What the vision study offers to the report: its cells, and what else tables are collected from.


def vision_cells_of(_):
    """(folder, coordinates) of every cell of the comparison."""
    cells = [
        {
            "dataset": dataset,
            "method": method,
            "edits": str(vision_edits(method)),
            "seed": str(seed),
        }
        for dataset in VISION.datasets
        for method in VISION.methods
        for seed in VISION.seeds
    ]
    return [(V_CELL.format(**cell), cell) for cell in cells]


def vision_files(experiment, name):
    """One file of every cell; ``record``: the record of how it was made."""
    path = V_RECORD if name == "record" else f"{V_CELL}/{name}"
    return [path.format(**cell) for _, cell in vision_cells_of(experiment)]


def vision_seed_files(name):
    """One file of every classifier."""
    return [
        f"{V_SEED}/{name}".format(dataset=dataset, seed=seed)
        for dataset in VISION.datasets
        for seed in VISION.seeds
    ]


def vision_split_files():
    return [
        f"{V_DATA}/data_split_info.csv".format(dataset=dataset)
        for dataset in VISION.datasets
    ]


def vision_image_files():
    """The discovery sets, with their pixels, for the sheet of edited images."""
    return [
        file.format(dataset=dataset)
        for dataset in VISION.datasets
        for file in vision_set("discovery")
    ]


def vision_search_files():
    return (
        [f"{OUT}/param_search_summary_{dataset}.csv" for dataset in VISION.datasets]
        if VISION.search
        else []
    )


REPORTED["vision"] = {
    "experiments": ["methods"],
    "settings": {
        **VISION.model_dump(mode="json"),
        "experiments": {
            "methods": {
                "methods": list(VISION.methods),
                "num_edits": VISION.max_edits,
                "seeds": VISION.seeds,
            }
        },
    },
    "cells": vision_cells_of,
    "files": vision_files,
    "inputs": {
        "splits": vision_split_files,
        "errors": lambda: vision_seed_files("errors.csv"),
        "statistics": lambda: vision_seed_files("layer_statistics.csv"),
        "locations": lambda: vision_seed_files("location.json"),
        "images": vision_image_files,
        "searches": vision_search_files,
    },
    "paths": {},
}
