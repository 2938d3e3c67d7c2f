"""Run a stage of the adapters study in a child of one warm process, so that dozens of jobs pay its imports once."""

from editlab.files.worker import call

WARM = [("editlab.adapters.warm:warm_up", {})]


def perform(snakemake, log, function, /, **arguments):
    """``function`` (``module:name``) with JSON ``arguments``, the study, the seed and as many threads as the rule has."""
    given = {"study": snakemake.params.study, "seed": snakemake.params.seed, "threads": snakemake.threads, **arguments}
    log.used = call(function, given, worker="adapters", preload=WARM, log=log)


def measure(snakemake, log, function, /, **arguments):
    """``perform`` for what looks at the base, its pool and, where they are there, the deltas of the pool."""
    files = snakemake.input
    known = files.get("deltas")
    perform(snakemake, log, function, base=files.base, pool=files.pool, known_deltas=known, **arguments)
