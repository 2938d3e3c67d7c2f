"""Greedy steps: scores of every cell, acceptance and gain by layer and step, paired differences to one step."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import compare, greedy_step_events, greedy_step_table, greedy_table
    from editlab.files.artifacts import write_csv

    cells, bases = snakemake.params.cells, snakemake.params.bases
    methods = list(dict.fromkeys(cell["method"] for _, cell in cells))
    pairs = [(method, base) for base in bases for method in methods if method not in (base, "emmet")]
    write_csv(snakemake.output.table, greedy_table(cells))
    write_csv(snakemake.output.steps, greedy_step_table(cells))
    write_csv(snakemake.output.gain, compare(cells, pairs))
    write_csv(snakemake.output.events, greedy_step_events(cells))
