"""What was found, in sentences that the numbers write."""

from common import job

with job(snakemake):
    from editlab.analysis.report.making import all_findings, read_tables
    from editlab.files.artifacts import write_json

    tables = read_tables(dict(snakemake.input.items()))
    write_json(snakemake.output[0], [f for study in snakemake.params.studies for f in all_findings(study, tables)])
