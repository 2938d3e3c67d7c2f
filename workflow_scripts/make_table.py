"""One printed table: numbers as CSV, LaTeX, and its caption."""

from common import job

with job(snakemake):
    from editlab.analysis.report.making import print_table, read_tables

    p, tables = snakemake.params, read_tables(dict(snakemake.input.items()))
    print_table(p.study, p.topic, snakemake.wildcards.sheet, tables, dict(snakemake.output.items()))
