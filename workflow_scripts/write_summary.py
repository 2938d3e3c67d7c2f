"""The card of the run, and the front page of the report."""

from common import job

with job(snakemake):
    from editlab.analysis.report.front import card, front_page, told_of
    from editlab.files.artifacts import write_text

    p = snakemake.params
    studies = told_of(p.runs, p.tables, list(snakemake.input.get("findings", [])))
    write_text(snakemake.output.summary, card(studies))
    write_text(snakemake.output.front, front_page(studies))
