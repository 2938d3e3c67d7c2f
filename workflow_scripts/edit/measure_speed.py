"""How fast targets are on this machine, as in ``make bench``, for the report."""

from pathlib import Path

from common import job

with job(snakemake):
    from benchmarks.run import measure

    measure("targets", Path(snakemake.output[0]).parent, quick=False)
