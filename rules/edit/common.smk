# What the rules of the edit study share: its block of the run, its cells and where they are, what a cell reads.

import re

import pandas as pd
from snakemake.utils import Paramspace

from editlab.config.data import FactsData, FileData
from editlab.config.finetuning import FineTuningInEpochs
from editlab.config.models import HubModel, RandomModel, SubstrateModel
from editlab.config.solvers import RandomUpdate

STUDY = RUN.edit

AXES = ["method", "batch", "replay", "rank", "seed"]
REPLAY_AXES = ["method", "batch", "replay", "capacity", "strategy", "rank", "seed"]
CELL = f"{OUT}/edit/{{experiment}}/{{model}}/{{dataset}}"
CELL_RECORD = f"{OUT}/.provenance/edit/{{experiment}}/{{model}}/{{dataset}}"

# Edits of the longest stream: all cells ask for the same time, so that they can be tasks of one array.
LONGEST = max((plan.num_edits for plan in STUDY.experiments.values()), default=0)


wildcard_constraints:
    experiment="[^/]+",
    model="[^/]+",
    dataset="[^/]+",
    method="[^/]+",
    batch=r"\d+",
    replay=r"\d+(\.\d+)?",
    capacity=r"\d+",
    strategy="random|priority|target_loss",
    rank=r"\d+",
    seed=r"\d+",
    layer=r"\d+",


def space(axes):
    """The Paramspace of all cells that have exactly these axes."""
    cells = [
        cell for e in STUDY.experiments for cell in STUDY.cells(e) if list(cell) == axes
    ]
    return Paramspace(pd.DataFrame(cells, columns=axes, dtype=str).drop_duplicates())


CELLS = space(AXES)
REPLAY_CELLS = space(REPLAY_AXES)


RECORD = "record"  # stands for the record among the names of a cell's files


@functools.cache
def cell_paths(experiment):
    """Directories of the cells of an experiment, in the order of :meth:`Study.cells`, as inputs and outputs name them."""
    if experiment not in STUDY.experiments:
        raise WorkflowError(
            f"config: edit.experiments.{experiment}: required for this target but missing"
        )
    model, dataset = STUDY.place(STUDY.experiments[experiment])
    base = f"{OUT}/edit/{experiment}/{model}/{dataset}"
    return [
        os.path.join(base, *(f"{k}~{v}" for k, v in cell.items()))
        for cell in STUDY.cells(experiment)
    ]


def cell_directories(experiment):
    """The same directories, as a job finds them."""
    return [HERE + path for path in cell_paths(experiment)]


def cell_record(path):
    """The record of how a cell was made: in the folder of all records, named like the cell's folder."""
    return f"{OUT}/.provenance{path.removeprefix(OUT)}.json"


def cell_files(experiment, name):
    """A file of every cell; from a storage come all that a table may read."""
    names = ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", RECORD)
    files = [
        cell_record(path) if n == RECORD else f"{path}/{n}"
        for path in cell_paths(experiment)
        for n in (names if HERE else [name])
    ]
    return [f for f in files if Path(f).exists()] if RUN.allow_missing else files


def names(kind, section):
    """A regular expression for the wildcard: the names in a section that are of one kind; never empty."""
    found = [name for name, value in section.items() if isinstance(value, kind)]
    return "|".join(re.escape(name) for name in found) or "$^"


def loading(model):
    """How a model is loaded."""
    chosen = STUDY.models[model]
    if isinstance(chosen, HubModel | RandomModel):
        return {"dtype": chosen.dtype, "device_map": chosen.device_map}
    where = {} if chosen.device == "cpu" else {"device_map": chosen.device}
    return {"dtype": "float32", **where}


def dataset_source(dataset):
    """The local file of a dataset; a rule downloads it when it is not there and has an address."""
    data = STUDY.datasets[dataset]
    return (
        f"{INPUTS}/downloads/{dataset}.json"
        if data.url and not data.file.is_file()
        else str(data.file)
    )


def neutral_sentences(model):
    """(count, seed) of the neutral sentences in a substrate's corpus."""
    chosen = STUDY.models[model]
    return (
        (chosen.neutral_sentences, chosen.seed)
        if isinstance(chosen, SubstrateModel | RandomModel)
        else (0, 0)
    )


def text_inputs(wildcards):
    """The model, and what it reads: a text, or the requests that the substrate's corpus is made of."""
    chosen = STUDY.models[wildcards.model]
    inputs = {"model": f"{INPUTS}/models/{wildcards.model}"}
    if STUDY.statistics.text is not None:
        inputs["text"] = STUDY.statistics.text
    elif isinstance(chosen, SubstrateModel | RandomModel):
        inputs["requests"] = f"{INPUTS}/data/{chosen.dataset}/requests.json"
    else:
        inputs["text"] = f"{INPUTS}/data/statistics_text.jsonl"
    return inputs


def statistics_inputs(wildcards):
    """As :func:`text_inputs`, but published statistics where there are some."""
    if STUDY.statistics.published is None:
        return text_inputs(wildcards)
    layers = wildcards.get("layer")
    layers = CONFIGURED_LAYERS if layers is None else [int(layers)]
    return {
        "model": f"{INPUTS}/models/{wildcards.model}",
        "published": [STUDY.statistics.published_file(k) for k in layers],
    }


def swept_curvature(wildcards):
    """The curvature that the grid needs, where a recipe of it may read it."""
    swept = [STUDY.methods[name] for name in STUDY.sweep.axes]
    if not any(isinstance(recipe, FineTuningInEpochs) for recipe in swept):
        return []
    return [
        statistics_file(wildcards.model, layer, "curvature")
        for layer in STUDY.sweep.layers
    ]


def small_model():
    """Whether the study's model is one that the workflow trains."""
    return isinstance(STUDY.models[STUDY.model], SubstrateModel)


def judged_events():
    """(file, coordinates) of the events of every cell whose batches trust judges."""
    return [
        (f"{path}/events.jsonl", {"experiment": experiment, **cell})
        for experiment in STUDY.experiments
        for path, cell in zip(cell_paths(experiment), STUDY.cells(experiment))
        if STUDY.methods[cell["method"]].trust
    ]


def used_recipes():
    return [STUDY.methods[m] for e in STUDY.experiments.values() for m in e.methods]


# Collected in one pass each, by the run that the inputs belong to.
CONFIGURED_LAYERS = SOURCE.edit.moment_layers()
CURVED_LAYERS = SOURCE.edit.curvature_layers()


def statistics_file(model, layer, kind="layer"):
    """Second moments of a layer (or its `curvature`): among the inputs, or this run's own where the run of the inputs has no
    use for it."""
    there = CURVED_LAYERS if kind == "curvature" else CONFIGURED_LAYERS
    own = OUT != INPUTS and int(layer) not in there
    return f"{OUT if own else INPUTS}/statistics/{model}/{kind}-{layer}.safetensors"


def rome_folder(recipe):
    """Where the contexts of a recipe are: rank-one recipes may have their own."""
    own = recipe.site == "mlp" and STUDY.contexts.rome is not None
    return "rome/" if own else ""


def cell_inputs(wildcards):
    """What a cell reads. Layers of an ``auto`` recipe are known once the trace has been made."""
    recipe, base = (
        STUDY.methods[wildcards.method],
        f"{wildcards.model}/{wildcards.dataset}",
    )
    layers = recipe.layers
    inputs = {
        "model": f"{INPUTS}/models/{wildcards.model}",
        "requests": f"{INPUTS}/data/{wildcards.dataset}/requests.json",
        "contexts": f"{INPUTS}/contexts/{rome_folder(recipe)}{wildcards.model}.json",
    }
    experiment = wildcards.get(
        "experiment"
    )  # retraining has none, and asks of known facts alone
    if experiment is None or STUDY.experiments[experiment].known_only:
        inputs["known"] = f"{INPUTS}/known/{base}.csv"
    if layers == "auto":
        inputs["layers"] = checkpoints.choose_layers.get(
            model=wildcards.model, dataset=wildcards.dataset
        ).output[0]
        layers = traced_layers(inputs["layers"])
    if recipe.solves and (recipe.reads_moment or recipe.reads_curvature):
        kind = "curvature" if recipe.reads_curvature else "layer"
        inputs["statistics"] = [
            statistics_file(wildcards.model, layer, kind) for layer in layers
        ]
    return inputs


def matched_inputs(wildcards):
    """The events of the cell whose norms a random control replays: that of the other method at the same point."""
    recipe = STUDY.methods[wildcards.method]
    if not isinstance(recipe, RandomUpdate) or recipe.matched_to is None:
        return {}
    wanted = {
        "method": recipe.matched_to,
        "batch": wildcards.batch,
        "replay": wildcards.replay,
        "seed": wildcards.seed,
    }
    cells = zip(
        cell_paths(wildcards.experiment), STUDY.cells(wildcards.experiment), strict=True
    )
    return {
        "matched": next(
            f"{path}/events.jsonl"
            for path, cell in cells
            if wanted.items() <= cell.items()
        )
    }


def guard_inputs(wildcards):
    """The weights and thresholds of a guarded cell, where they are chosen on other streams."""
    source = STUDY.experiments[wildcards.experiment].guards_from
    guarded = STUDY.methods[wildcards.method].trust is not None
    path = f"{OUT}/guards/{source}/{wildcards.model}/{wildcards.dataset}.json"
    return {"guards": path} if source and guarded else {}


@functools.cache
def plain(section, name=None):
    """A section of the study (or an entry of it) as plain values; not to be changed."""
    found = getattr(STUDY, section)
    return (found if name is None else found[name]).model_dump(mode="json")


def cell_parameters(wildcards):
    """Everything that a cell depends on beside its files: a changed value reruns the cell."""
    recipe = dict(plain("methods", wildcards.method))
    if "capacity" in wildcards.keys():
        recipe["replay_capacity"] = int(wildcards.capacity)
        recipe["replay_strategy"] = wildcards.strategy
    plan = STUDY.experiments[wildcards.experiment]
    return {
        "recipe": recipe,
        "batch": int(wildcards.batch),
        "replay": float(wildcards.replay),
        "rank": int(wildcards.rank),
        "seed": int(wildcards.seed),
        "num_edits": plan.num_edits,
        "snapshot_every": plan.snapshot_every,
        "stress_fraction": plan.stress_fraction,
        "label_cases": plan.label_cases,
        "known_only": plan.known_only,
        "evaluation": plain("evaluation"),
        "loading": loading(wildcards.model),
    }
