"""Search by Bayesian optimisation over the space that the axes span."""

from common import job
from vision_job import search

with job(snakemake) as log:
    search(
        snakemake,
        log,
        "editlab.vision.search:bayesian_stage",
        axes=snakemake.params.axes,
        trials=snakemake.params.trials,
        seed=int(snakemake.wildcards.seed),
    )
