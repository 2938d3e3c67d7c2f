# What the rules of the vision study share: its block of the run, where its files are, which set a rule may read.

import re

from editlab.config import resources as needs
from editlab.config.images import HubViT, Liver, source_files
from editlab.config.vision import Churn, HeadClosedForm, HeadEwc, Retrain

VISION = RUN.vision


wildcard_constraints:
    dataset="[^/]+",
    method="[^/]+",
    edits=r"\d+",
    draw=r"\d+",
    chunk=r"\d+",
    seed=r"\d+",


V_DATA = f"{INPUTS}/vision/{{dataset}}/data"
V_MODEL = f"{INPUTS}/vision/{{dataset}}/models/seed~{{seed}}"
V_SEED = f"{OUT}/vision/{{dataset}}/seed~{{seed}}"
V_CELL = f"{OUT}/vision/{{dataset}}/method~{{method}}/edits~{{edits}}/seed~{{seed}}"
V_RECORD = f"{OUT}/.provenance/vision/{{dataset}}/method~{{method}}/edits~{{edits}}/seed~{{seed}}.json"
V_EDIT = (
    f"{OUT}/vision/{{dataset}}/edits/method~{{method}}/edits~{{edits}}/seed~{{seed}}"
)
V_SEARCH = f"{OUT}/vision/{{dataset}}/search"

HEAD = [n for n, r in VISION.methods.items() if isinstance(r, HeadEwc | HeadClosedForm)]
TRAINED = [n for n, r in VISION.methods.items() if isinstance(r, Retrain | Churn)]
MENDED = [n for n in VISION.methods if n not in HEAD and n not in TRAINED]


def vision_names(found):
    """A regular expression for a wildcard: these names; never empty."""
    return "|".join(re.escape(name) for name in found) or "$^"


def vision_data(dataset):
    return VISION.datasets[dataset]


def vision_model(dataset):
    return VISION.models[vision_data(dataset).model]


def vision_set(name):
    """The files of one of the four sets, and what their pixels mean."""
    return [f"{V_DATA}/{name}.csv", f"{V_DATA}/{name}.npy", f"{V_DATA}/data.json"]


def vision_device(wildcards):
    """Where the classifiers of a data set run."""
    return vision_model(wildcards.dataset).device


def vision_resource(name, key, edits=None):
    """A resource of jobs that load a classifier."""

    def value(wildcards, attempt):
        model = vision_model(wildcards.dataset)
        if key == "mem_mb":
            return needs.memory(RUN.resources, name, attempt, model)
        if key == "gpu":
            return (
                needs.gpus(RUN.resources, name, model) or 1
                if model.device != "cpu"
                else None
            )
        return needs.minutes(RUN.resources, name, model, edits)

    return value


def vision_liver(data):
    """The data set under whose name a pair of liver files is converted, once for all tasks on it."""
    pair = data.images, data.labels
    return next(
        name
        for name, other in VISION.datasets.items()
        if isinstance(other, Liver) and (other.images, other.labels) == pair
    )


def vision_source(wildcards):
    """The file that a data set is read from: the user's, a download, or a conversion of it."""
    data = vision_data(wildcards.dataset)
    if isinstance(data, Liver):
        return f"{INPUTS}/vision/converted/{vision_liver(data)}.npz"
    found = source_files(data)
    if not found:
        return []
    if data.url and not found["path"].is_file():
        return f"{INPUTS}/vision/downloads/{wildcards.dataset}.npz"
    return str(found["path"])


def vision_pretrained(wildcards):
    """The pretrained model of a data set, where it has one."""
    hub = isinstance(vision_model(wildcards.dataset), HubViT)
    name = vision_data(wildcards.dataset).model
    return {"pretrained": f"{INPUTS}/vision/pretrained/{name}"} if hub else {}


def vision_ranking(wildcards, layers=None):
    """The ranking of layers, where a recipe edits the best ones (``layers``: all that a search tries)."""
    if layers is None:
        layers = [getattr(VISION.methods[wildcards.method], "layers", None)]
    ranked = any(chosen in ("trace", "trial") for chosen in layers)
    return f"{V_SEED}/layer_statistics.csv".format(**wildcards) if ranked else []


def vision_search_ranking(wildcards):
    """The same for the cells of the search."""
    recipe = VISION.methods[VISION.search.method]
    return vision_ranking(wildcards, VISION.search.axes.get("layers", [recipe.layers]))


def vision_samples():
    """The largest number of preserved samples that a recipe or a cell of the search asks for."""
    fields = ("projection_samples", "fisher_samples", "moment_samples")
    asked = [
        getattr(r, f) for r in VISION.methods.values() for f in fields if hasattr(r, f)
    ]
    axes = VISION.search.axes if VISION.search else {}
    return max([1, *asked, *axes.get("projection_samples", [])])


def vision_outcomes(wildcards):
    """What the edits of a method left behind."""
    made = V_EDIT.format(**wildcards)
    if wildcards.method not in TRAINED:
        return {"outcomes": f"{made}/draws"}
    draws = VISION.cells(wildcards.dataset, int(wildcards.seed), wildcards.method)
    return {"outcomes": [f"{made}/draw~{c['draw']}" for c in draws]}


def vision_cells(name):
    """One file of every cell of the comparison."""
    return [
        f"{V_CELL}/{name}".format(
            dataset=dataset, method=method, edits=vision_edits(method), seed=seed
        )
        for dataset in VISION.datasets
        for method in VISION.methods
        for seed in VISION.seeds
    ]


def vision_edits(method, edits=None):
    """Edits of a cell as they stand in its path: none for churn."""
    if isinstance(VISION.methods[method], Churn):
        return 0
    return VISION.max_edits if edits is None else edits


def vision_searched_edits():
    """The numbers of edits that the search compares, each once."""
    return list(dict.fromkeys(VISION.search.axes.get("max_edits", [VISION.max_edits])))


def vision_chunks():
    """Numbers of the grid's chunks."""
    cells = len(VISION.grid())
    return range((cells + VISION.search.chunk - 1) // VISION.search.chunk)


def vision_parts():
    """The folders that a search fills for each seed."""
    search = VISION.search
    return [
        *(f"grid~{k}" for k in vision_chunks()),
        *(["refined"] if search.refine else []),
        *(["bayesian"] if search.trials else []),
    ]


def vision_search_baselines(dataset):
    """Scores of the baselines beside the search's cells, one file for each number of edits."""
    found = [
        f"{V_CELL}/comparative_evaluation.csv".format(
            dataset=dataset, method=method, edits=vision_edits(method, edits), seed=seed
        )
        for method in VISION.search.baselines
        for edits in vision_searched_edits()
        for seed in VISION.search.seeds
    ]
    return list(dict.fromkeys(found))


def vision_targets():
    """What a run's block asks for beside its report: what no topic reads."""
    files = vision_cells("comparative_evaluation.csv")
    if VISION.search and VISION.tracking.wandb:
        files += [f"{OUT}/vision/{dataset}/tracking" for dataset in VISION.datasets]
    return files


TARGETS.append(vision_targets)
