"""Replay: every rate, capacity and strategy against no replay, paired on the same cases."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import replay_gain
    from editlab.files.artifacts import write_csv

    write_csv(snakemake.output[0], replay_gain(snakemake.params.cells))
