"""Run a chunk of the grid's cells in one process."""

from common import job
from vision_job import search

with job(snakemake) as log:
    search(
        snakemake,
        log,
        "editlab.vision.search:grid_stage",
        points=snakemake.params.points,
        first=int(snakemake.wildcards.chunk) * snakemake.params.chunk,
        count=snakemake.params.chunk,
    )
