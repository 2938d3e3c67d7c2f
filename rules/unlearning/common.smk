# What the rules of the unlearning study share: its block of the run, where its files are, what a job asks of a cluster.

from editlab.config.models import HubModel as LargeModel
from editlab.config.resources import memory, minutes, gpus

UNLEARNING = RUN.unlearning
LEARNED = f"{INPUTS}/unlearning"  # facts and models, of this run or of another one
UNLEARNED = f"{OUT}/unlearning"  # what this run makes of them


pathvars:
    learned=LEARNED,
    unlearned=UNLEARNED,


LARGE_MODEL = isinstance(UNLEARNING.model, LargeModel)
LOADED = (
    {"dtype": UNLEARNING.model.dtype, "device_map": UNLEARNING.model.device_map}
    if LARGE_MODEL
    else {"dtype": "float32"}
)
GRID_POINT = "method~{method}/rank~{rank}/lr~{lr}/retain~{retain}/seed~{seed}"


def facts_of(wildcards):
    """The facts of a seed."""
    return f"{LEARNED}/facts/seed~{wildcards.seed}"


def model_before(wildcards, base=None):
    """The model that a method unlearns: the one that learned the facts, or the large model as it is."""
    base = base or UNLEARNING.methods[wildcards.method].base
    if base == "parent" or UNLEARNING.learn is None:
        return f"{LEARNED}/models/seed~{wildcards.seed}/parent"
    return f"{LEARNED}/models/seed~{wildcards.seed}/{base}"


def model_attacked(wildcards):
    """The model that an attack is turned on."""
    if wildcards.target.startswith("control~"):
        return model_before(wildcards, wildcards.target.removeprefix("control~"))
    return f"{UNLEARNED}/models/{wildcards.target}/seed~{wildcards.seed}"


def need(rule, key):
    """A resource of jobs that load the model: a small one needs what the entry says, a large one by its size."""
    sized = UNLEARNING.model if LARGE_MODEL else None
    if not LARGE_MODEL:
        return resource(rule, key)
    if key == "mem_mb":
        return lambda wildcards, attempt: memory(RUN.resources, rule, attempt, sized, 0)
    if key == "runtime":
        return minutes(RUN.resources, rule, sized)
    return gpus(RUN.resources, rule, sized) or None


def grid_files(wildcards):
    """Scores of the whole grid of one method at one rank."""
    return [
        f"{UNLEARNED}/runs/{GRID_POINT.format(**point)}.csv"
        for point in UNLEARNING.grid()
        if all(point[k] == wildcards[k] for k in ("method", "rank", "seed"))
    ]


def unlearning_files(pattern, coordinates):
    """The files of many results."""
    return [pattern.format(**where) for where in coordinates]


UNLEARNING_RUNS = unlearning_files(
    f"{UNLEARNED}/runs/{GRID_POINT}.csv", UNLEARNING.grid()
)
UNLEARNING_POINTS = unlearning_files(
    f"{UNLEARNED}/kept/point~{{point}}/method~{{method}}/rank~{{rank}}/seed~{{seed}}.csv",
    UNLEARNING.points(),
)
UNLEARNING_ATTACKS = unlearning_files(
    f"{UNLEARNED}/attacks/attack~{{attack}}/{{target}}/seed~{{seed}}.csv",
    UNLEARNING.attacks(),
)
UNLEARNING_CHOSEN = unlearning_files(
    f"{UNLEARNED}/chosen/method~{{method}}/rank~{{rank}}/seed~{{seed}}.json",
    [p for p in UNLEARNING.points() if p["point"] == "selected"],
)
