# What every rule shares: the validated study, the spaces of cells, resources, digests of the code a result depends on.

import sys

import pandas as pd
from snakemake.utils import Paramspace

from editlab.code import code_digest
from editlab.config import FactsData, HubModel, SubstrateModel, check_files, dataset_path, load_study
from editlab.errors import ConfigError

try:
    STUDY = load_study(config)
    check_files(STUDY)
except ConfigError as error:
    sys.exit(str(error))

TABLES = {
    "ablation_matrix": "edit",
    "quick_validation": "quick_validation",
    "baseline_comparison": "baseline_comparison",
    "replay_ablation": "replay_ablation",
}
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
    cells = [cell for e in STUDY.experiments for cell in STUDY.cells(e) if list(cell) == axes]
    return Paramspace(pd.DataFrame(cells, columns=axes, dtype=str).drop_duplicates())


CELLS = space(AXES)
REPLAY_CELLS = space(REPLAY_AXES)


def cell_directories(experiment):
    """Directories of the cells of an experiment; with allow_missing only of those that are there."""
    if experiment not in STUDY.experiments:
        raise WorkflowError(f"config: experiments.{experiment}: required for this target but missing")
    base = f"results/{experiment}/{STUDY.model}/{STUDY.dataset}"
    return [base + "/" + "/".join(f"{k}~{v}" for k, v in cell.items()) for cell in STUDY.cells(experiment)]


def cell_files(experiment, name):
    files = [f"{directory}/{name}" for directory in cell_directories(experiment)]
    return [f for f in files if Path(f).exists()] if STUDY.allow_missing else files


def all_targets():
    """Every table that the study's experiments fill."""
    return [f"results/{table}.csv" for table, experiment in TABLES.items() if experiment in STUDY.experiments]


def resource(name, key):
    """A resource of a rule: from config.resources, memory doubled with each retry."""

    def value(wildcards, attempt):
        chosen = STUDY.resources.get(name, STUDY.resources.get("default"))
        amount = getattr(chosen, key) if chosen else {"mem_mb": 1500, "runtime": 60, "gpu": 0}[key]
        return amount * 2 ** (attempt - 1) if key == "mem_mb" else amount

    return value


def names(kind, section):
    """A regular expression for the wildcard: the names in a section that are of one kind; never empty."""
    found = [name for name, value in section.items() if isinstance(value, kind)]
    return "|".join(re.escape(name) for name in found) or "$^"
