"""Long streams: all curves in one table, and where gradual forgetting turns into collapse."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import forgetting_table, turning_points
    from editlab.files.artifacts import write_csv

    table = forgetting_table(snakemake.params.cells)
    write_csv(snakemake.output.table, table)
    write_csv(snakemake.output.points, turning_points(table))
