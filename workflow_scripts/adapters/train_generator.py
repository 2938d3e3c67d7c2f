"""Train a generator of adapters, score it, check it, and save the adapters of the held-out tasks."""

from adapters_job import measure
from common import job

with job(snakemake) as log:
    measure(
        snakemake,
        log,
        "editlab.adapters.generation:generator_job",
        decoder=snakemake.params.decoder,
        supervision=snakemake.params.supervision,
        **dict(snakemake.output.items()),
    )
