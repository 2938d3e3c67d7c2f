"""Train the base of one seed on descriptions of tasks, and save it with its training log."""

from adapters_job import perform
from common import job

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.adapters.preparation:base_job",
        base=snakemake.output.base,
        training=snakemake.output.training,
    )
