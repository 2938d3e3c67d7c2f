"""Collect the cells of a search and the baselines beside them."""

from common import job

with job(snakemake):
    from editlab.analysis.vision.collect import collect_search
    from editlab.files.artifacts import write_csv

    inputs = snakemake.input
    write_csv(
        snakemake.output[0], collect_search(inputs.cells, inputs.scores, inputs.baselines, snakemake.params.method)
    )
