"""Collect the runs, the attacks and the chosen points of the study into its three tables."""

from common import job

with job(snakemake):
    from editlab.analysis.unlearning.tables import rtt_table, summary_table, unlearn_table
    from editlab.files.artifacts import write_csv

    settings = snakemake.params.settings
    rtt = rtt_table(list(snakemake.input.attacks), settings)
    write_csv(snakemake.output.unlearn, unlearn_table(list(snakemake.input.runs), settings))
    write_csv(snakemake.output.rtt, rtt)
    write_csv(snakemake.output.summary, summary_table(rtt, list(snakemake.input.chosen), settings))
