"""Measure the deltas of a pool, the ways to pool them, and the gates of the study."""

from adapters_job import measure
from common import job

with job(snakemake) as log:
    measure(
        snakemake,
        log,
        "editlab.adapters.stages:deltas_job",
        **dict(snakemake.output.items()),
    )
