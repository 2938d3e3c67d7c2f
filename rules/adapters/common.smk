# What the rules of the adapters study share: its block of the run, the folder of a seed, what its jobs ask for.

from editlab.config import resources as needs
from editlab.config.adapters import TrainedBase

ADAPTERS = RUN.adapters
# A seed has a split, a base model and a pool of its own. What is trained may be that of another run.
SEED = f"{OUT}/adapters/seed~{{seed}}"
SEED_INPUTS = f"{INPUTS}/adapters/seed~{{seed}}"

GENERATORS = [
    (decoder, supervision)
    for decoder in ("coefficients", "hyperconvolution")
    for supervision in ("weights", "both", "deltas")
]


def adapters_seeds(decoder="coefficients"):
    """Seeds for which a generator is trained; of the convolution, that takes longest, they may be fewer."""
    return (
        ADAPTERS.convolution_seeds if decoder == "hyperconvolution" else ADAPTERS.seeds
    )


def adapters_files(name):
    """A file of every seed."""
    return [f"{OUT}/adapters/seed~{seed}/{name}" for seed in ADAPTERS.seeds]


def generator_files(name):
    """A file of every generator that is trained."""
    return [
        f"{OUT}/adapters/seed~{seed}/generators/{decoder}-{supervision}/{name}"
        for decoder, supervision in GENERATORS
        for seed in adapters_seeds(decoder)
    ]


def adapters_resource(name, key):
    """A resource of jobs that load the base; a trained one is too small to count."""
    base = None if isinstance(ADAPTERS.base, TrainedBase) else ADAPTERS.base
    if key == "mem_mb":
        return lambda wildcards, attempt: needs.memory(
            RUN.resources, name, attempt, base
        )
    if key == "runtime":
        return needs.minutes(RUN.resources, name, base)
    return needs.gpus(RUN.resources, name, base) or None


def adapters_study(*sections):
    """The block as a job depends on it: the sections named, the others at their defaults."""
    values = ADAPTERS.model_dump(mode="json")
    return {name: values[name] for name in sections}
