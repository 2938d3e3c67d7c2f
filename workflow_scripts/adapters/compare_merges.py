"""Merge retrieved adapters by every rule, in both spaces, from both pools."""

from adapters_job import measure
from common import job

with job(snakemake) as log:
    measure(
        snakemake,
        log,
        "editlab.adapters.merge_table:merges_job",
        own=list(snakemake.input.own),
        target=snakemake.output[0],
    )
