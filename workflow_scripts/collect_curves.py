"""The curves of all cells of the matrix in one table."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import forgetting_table
    from editlab.files.artifacts import write_csv

    write_csv(snakemake.output[0], forgetting_table(snakemake.params.cells))
