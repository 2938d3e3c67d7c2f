"""Train a pool of LoRA teachers of one seed: from a shared A_0, from their own, or one for all tasks."""

from adapters_job import perform
from common import job

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.adapters.preparation:pool_job",
        base=snakemake.input.base,
        kind=snakemake.wildcards.pool,
        target=snakemake.output[0],
    )
