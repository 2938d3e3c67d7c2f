"""Teach a model the facts that will be forgotten, as a whole or in its lower half alone."""

from common import job
from unlearning_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    with replace_directory(snakemake.output[0]) as directory:
        perform(
            snakemake,
            log,
            "editlab.unlearning.teaching:learn_stage",
            parent=snakemake.input.parent,
            loading=snakemake.params.loading,
            facts=snakemake.input.facts,
            options=snakemake.params.options,
            seed=int(snakemake.wildcards.seed),
            lower_half=snakemake.wildcards.base == "hidden",
            threads=snakemake.threads,
            directory=str(directory),
        )
