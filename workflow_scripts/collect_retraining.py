"""What retraining brought back, by method: all scores, and the share of the old knowledge that was restored."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import retraining_table
    from editlab.files.artifacts import write_csv

    cells = list(zip(snakemake.input, snakemake.params.coordinates, strict=True))
    write_csv(snakemake.output[0], retraining_table(cells))
