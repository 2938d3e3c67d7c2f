"""Collect the keys of right FT-Train images at every layer."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.vision.keys:keys_stage",
        model=snakemake.input.model,
        ft_train=snakemake.input.ft_train[0],
        layers=None,
        samples=snakemake.params.samples,
        seed=int(snakemake.wildcards.seed),
        target=snakemake.output[0],
    )
