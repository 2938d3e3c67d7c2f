"""One table from the cells of an experiment; every file is compared with its checksum first."""

from common import job

with job(snakemake):
    from editlab.analysis.tables import collect_cells
    from editlab.files.artifacts import write_csv

    p = snakemake.params
    fixed = {"study": p.study, "model": p.model, "dataset": p.dataset}
    table = collect_cells(p.cells, p.coordinates, fixed, with_costs=p.with_costs, allow_missing=p.allow_missing)
    write_csv(snakemake.output[0], table)
