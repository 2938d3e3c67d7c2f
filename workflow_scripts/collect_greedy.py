"""Greedy steps: scores of every cell, acceptance and gain by layer and step, paired differences to one step."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import compare, greedy_step_table, greedy_table
    from editlab.artifacts import write_csv

    cells, base = snakemake.params.cells, snakemake.params.base
    others = [m for m in dict.fromkeys(cell["method"] for _, cell in cells) if m != base]
    write_csv(snakemake.output.table, greedy_table(cells))
    write_csv(snakemake.output.steps, greedy_step_table(cells))
    write_csv(snakemake.output.gain, compare(cells, [(method, base) for method in others]))
