"""The benchmarks as one tidy table."""

from common import job

with job(snakemake):
    from editlab.analysis.speed import speed_table
    from editlab.files.artifacts import write_csv

    write_csv(snakemake.output[0], speed_table(list(snakemake.input)))
