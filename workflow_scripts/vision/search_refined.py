"""Run the cells around the best one of the grid."""

from common import job
from vision_job import search

with job(snakemake) as log:
    search(
        snakemake,
        log,
        "editlab.vision.search:refined_stage",
        best=snakemake.input.best,
        factors=snakemake.params.factors,
    )
