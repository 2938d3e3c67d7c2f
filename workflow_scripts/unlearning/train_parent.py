"""Train the small model that answers questions and does not know what will be forgotten."""

from common import job
from unlearning_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    with replace_directory(snakemake.output.model) as directory:
        perform(
            snakemake,
            log,
            "editlab.unlearning.teaching:train_parent_stage",
            facts=snakemake.input.facts,
            options=snakemake.params.options,
            seed=int(snakemake.wildcards.seed),
            threads=snakemake.threads,
            directory=str(directory),
            training=snakemake.output.training,
        )
