# Shared by all rule files. The validated study, the spaces of cells, resources, digests of the code behind a result.

import functools
import gc
import os
import re
import sys
from pathlib import Path

import pandas as pd
from snakemake.utils import Paramspace

from editlab.files.code import code_digest
from editlab.config.data import FactsData, FileData
from editlab.config.models import HubModel, SubstrateModel
from editlab.config.run import check_files, load_run, read_layers
from editlab.config.solvers import SOLVERS
from editlab.errors import ConfigError
from editlab.files.worker import OWNER

try:
    # Not `config`, in which Snakemake has mixed the experiments of all layers.
    LAYERS = [Path(workflow.basedir, "config.yaml"), *workflow.overwrite_configfiles]
    RUN = load_run(read_layers(LAYERS, workflow.config_settings.config))
    check_files(RUN)
except ConfigError as error:
    sys.exit(str(error))

# Thousands of jobs are objects that live to the end: the collector need not look at them all the time.
gc.set_threshold(50_000, 20, 100)

# Jobs end with the Snakemake that starts them (workflow_scripts/watchdog.py).
os.environ.update(EDITLAB_SNAKEMAKE=str(os.getpid()))
# Cells of this process share a warm worker (editlab/files/worker.py), unless EDITLAB_WORKER=off; on a cluster those of one
# submission do.
SHARED = workflow.is_main_process or workflow.group_settings.local_groupid != "local"
if SHARED and os.environ.get("EDITLAB_WORKER") != "off":
    os.environ[OWNER] = str(os.getpid())
else:
    os.environ.pop(OWNER, None)

# Jobs use the library and the scripts of this checkout, wherever their interpreter comes from (conda, a container).
HOMES = [str(workflow.basedir), os.path.join(str(workflow.basedir), "workflow_scripts")]
SEARCHED = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ.update(
    PYTHONPATH=os.pathsep.join([*HOMES, *(p for p in SEARCHED if p and p not in HOMES)])
)

# Where the files of this run go, and the block of the edit study.
OUT = "results"
STUDY = RUN.edit

TABLES = {
    "ablation_matrix": "edit",
    "quick_validation": "quick_validation",
    "baseline_comparison": "baseline_comparison",
    "replay_ablation": "replay_ablation",
    "combined": "combined",
}
# Tables that rules of their own collect (rules/lora.smk, trust.smk, greedy.smk, forgetting.smk): table -> experiment.
GUARDED_TABLES = {
    "lora_ablation": "lora_ablation",
    "rtt_edits": "retraining",
    "trust_eval": "trust_eval",
    "greedy_eval": "greedy_eval",
    "large_scale_forgetting": "large_scale",
    "replay_gain": "replay_ablation",
}
# Tables of rules/tables.smk and collect_costs that look at the cells of the matrix.
VIEWS = {"curves": "edit", "comparisons": "edit", "costs": "edit"}
AXES = ["method", "batch", "replay", "rank", "seed"]
REPLAY_AXES = ["method", "batch", "replay", "capacity", "strategy", "rank", "seed"]
CELL = "results/{experiment}/{model}/{dataset}"


wildcard_constraints:
    experiment="[a-z_]+",
    model="[^/]+",
    dataset="[^/]+",
    method="[^/]+",
    batch=r"\d+",
    replay=r"\d+(\.\d+)?",
    capacity=r"\d+",
    strategy="random|priority",
    rank=r"\d+",
    seed=r"\d+",
    layer=r"\d+",
    table="|".join(TABLES),


def space(axes):
    """The Paramspace of all cells that have exactly these axes."""
    cells = [
        cell for e in STUDY.experiments for cell in STUDY.cells(e) if list(cell) == axes
    ]
    return Paramspace(pd.DataFrame(cells, columns=axes, dtype=str).drop_duplicates())


CELLS = space(AXES)
REPLAY_CELLS = space(REPLAY_AXES)


# Where a job finds its files: with a default storage (profiles/kubernetes) in copies of what it declares as input.
STORAGE = workflow.storage_settings
HERE = (
    os.path.join(
        STORAGE.local_storage_prefix,
        *STORAGE.default_storage_prefix.split("://"),
        "",
    )
    if STORAGE.default_storage_provider
    else ""
)


@functools.cache
def cell_paths(experiment):
    """Directories of the cells of an experiment, in the order of :meth:`Study.cells`, as inputs and outputs name them."""
    if experiment not in STUDY.experiments:
        raise WorkflowError(
            f"config: edit.experiments.{experiment}: required for this target but missing"
        )
    base = f"results/{experiment}/{STUDY.model}/{STUDY.dataset}"
    return [
        os.path.join(base, *(f"{k}~{v}" for k, v in cell.items()))
        for cell in STUDY.cells(experiment)
    ]


def cell_directories(experiment):
    """The same directories, as a job finds them."""
    return [HERE + path for path in cell_paths(experiment)]


def cell_files(experiment, name):
    """A file of every cell; from a storage come all that a table may read."""
    names = ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "provenance.json")
    files = [
        f"{path}/{n}"
        for path in cell_paths(experiment)
        for n in (names if HERE else [name])
    ]
    return [f for f in files if Path(f).exists()] if RUN.allow_missing else files


DRY = any(re.fullmatch(r"--dry-?run|-[a-mo-z]*n[a-z]*", a) for a in sys.argv[1:])


def drop_tables_with_holes():
    """Remove tables that are there although a cell of theirs is not: Snakemake by itself does not look behind a table,
    and a table with a hole is no result. A dry run only says so."""
    for table, experiment in {**TABLES, **VIEWS}.items():
        path = Path(f"results/{table}.csv")
        if experiment not in STUDY.experiments or not path.exists():
            continue
        if not all(Path(d, "metrics.csv").exists() for d in cell_paths(experiment)):
            print(
                f"{path}: a cell is missing; the table will be made again",
                file=sys.stderr,
            )
            if not DRY:
                path.unlink()


# Jobs on other machines parse this file too, and may see a directory later than it was filled.
if workflow.is_main_process and not RUN.allow_missing and not HERE:
    drop_tables_with_holes()


def all_targets():
    """Every table that the study's experiments fill."""
    return [
        f"results/{table}.csv"
        for table, experiment in {**TABLES, **GUARDED_TABLES}.items()
        if has_results(experiment)
    ]


def names(kind, section):
    """A regular expression for the wildcard: the names in a section that are of one kind; never empty."""
    found = [name for name, value in section.items() if isinstance(value, kind)]
    return "|".join(re.escape(name) for name in found) or "$^"


def loading(model):
    """How a model is loaded."""
    chosen = STUDY.models[model]
    hub = isinstance(chosen, HubModel)
    return (
        {"dtype": chosen.dtype, "device_map": chosen.device_map}
        if hub
        else {"dtype": "float32"}
    )


def dataset_source(dataset):
    """The local file of a dataset; a rule downloads it when it is not there and has an address."""
    data = STUDY.datasets[dataset]
    return (
        f"results/downloads/{dataset}.json"
        if data.url and not data.file.is_file()
        else str(data.file)
    )


def neutral_sentences(model):
    """(count, seed) of the neutral sentences in a substrate's corpus."""
    chosen = STUDY.models[model]
    return (
        (chosen.neutral_sentences, chosen.seed)
        if isinstance(chosen, SubstrateModel)
        else (0, 0)
    )


def statistics_inputs(wildcards):
    """The model, and the texts: a file, or the requests that the substrate's corpus is made of."""
    chosen = STUDY.models[wildcards.model]
    inputs = {"model": f"results/models/{wildcards.model}"}
    if STUDY.statistics.text is not None:
        inputs["text"] = STUDY.statistics.text
    elif isinstance(chosen, SubstrateModel):
        inputs["requests"] = f"results/data/{chosen.dataset}/requests.json"
    else:
        inputs["text"] = "results/data/statistics_text.txt"
    return inputs


def small_model():
    """Whether the study's model is one that the workflow trains."""
    return isinstance(STUDY.models[STUDY.model], SubstrateModel)


def study_values():
    """The run's name and the edit study's block, as the analysis takes them."""
    return {"study": RUN.run, **STUDY.model_dump(mode="json")}


def used_recipes():
    return [STUDY.methods[m] for e in STUDY.experiments.values() for m in e.methods]


CONFIGURED_LAYERS = sorted(
    {layer for r in used_recipes() if r.layers != "auto" for layer in r.layers}
)


def cell_inputs(wildcards):
    """What a cell reads. Layers of an ``auto`` recipe are known once the trace has been made."""
    recipe, base = (
        STUDY.methods[wildcards.method],
        f"{wildcards.model}/{wildcards.dataset}",
    )
    layers = recipe.layers
    inputs = {
        "model": f"results/models/{wildcards.model}",
        "requests": f"results/data/{wildcards.dataset}/requests.json",
        "known": f"results/known/{base}.csv",
        "contexts": f"results/contexts/{wildcards.model}.json",
    }
    if layers == "auto":
        inputs["layers"] = checkpoints.choose_layers.get(
            model=wildcards.model, dataset=wildcards.dataset
        ).output[0]
        layers = read_layers(inputs["layers"])
    if SOLVERS[recipe.solver].moment or SOLVERS[recipe.solver].site == "mlp":
        inputs["statistics"] = [
            f"results/statistics/{wildcards.model}/layer-{layer}.safetensors"
            for layer in layers
        ]
    return inputs


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
        "perplexity_text": STUDY.evaluation.perplexity_text,
    }


def trust_experiments():
    """The experiments whose decisions are labelled: with harmful batches, and where it is declared without."""
    cell_paths("trust_eval")  # a clear error when it is not declared
    return [e for e in ("trust_eval", "trust_clean") if has_results(e)]


def greedy_experiments():
    """Greedy steps, and one step at a higher rank to hold them against where that is declared."""
    cell_paths("greedy_eval")
    return [e for e in ("greedy_eval", "greedy_rank") if has_results(e)]


def retrained_files():
    """What retraining made of the cells of the experiment ``retraining``."""
    return [
        d.replace("results/retraining/", "results/retrained/") + ".csv"
        for d in cell_paths("retraining")
    ]
