"""Choose the best cell of a grid, by discovery alone."""

from pathlib import Path

from common import job

with job(snakemake):
    from editlab.files.artifacts import write_json
    from editlab.vision.search import best_point

    write_json(
        snakemake.output[0], best_point([Path(d, "cells.csv") for d in snakemake.input], snakemake.params.points)
    )
