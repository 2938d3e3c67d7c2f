"""Score the adapters that a generated one must be held against."""

from adapters_job import measure
from common import job

with job(snakemake) as log:
    measure(
        snakemake,
        log,
        "editlab.adapters.stages:references_job",
        joint=snakemake.input.joint,
        target=snakemake.output[0],
    )
