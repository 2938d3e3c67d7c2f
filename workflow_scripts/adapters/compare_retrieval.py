"""Predict deltas from descriptions, retrieve adapters by them, and score what comes of it."""

from adapters_job import measure
from common import job

with job(snakemake) as log:
    measure(
        snakemake,
        log,
        "editlab.adapters.stages:retrieval_job",
        **dict(snakemake.output.items()),
    )
