"""One table of a topic, from finished cells; every file is compared with its checksum first."""

from common import job

with job(snakemake):
    from editlab.analysis.report.making import collect
    from editlab.analysis.report.run import Run
    from editlab.files.artifacts import write_csv

    p = snakemake.params
    table = collect(p.study, p.topic, snakemake.wildcards.table, Run(**p.run), allow_missing=p.allow_missing)
    write_csv(snakemake.output[0], table)
