"""Seconds by stage and peak memory of every cell, from its provenance."""

from common import job

with job(snakemake):
    from editlab.analysis.tables import collect_costs
    from editlab.files.artifacts import write_csv

    write_csv(snakemake.output[0], collect_costs(snakemake.params.cells, snakemake.params.coordinates))
