"""Paired differences between the cells of the matrix, on the same cases."""

from common import job

with job(snakemake):
    from editlab.analysis.comparisons import comparisons
    from editlab.files.artifacts import write_csv

    write_csv(snakemake.output[0], comparisons(snakemake.params.cells))
