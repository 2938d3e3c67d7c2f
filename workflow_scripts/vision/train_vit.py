"""Train the classifier of a seed on FT-Train, stopped by FT-Val."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    with replace_directory(snakemake.output.model) as directory:
        perform(
            snakemake,
            log,
            "editlab.vision.training:train_stage",
            section=snakemake.params.section,
            data=snakemake.params.data,
            name=snakemake.wildcards.dataset,
            ft_train=snakemake.input.ft_train[0],
            ft_val=snakemake.input.ft_val[0],
            seed=int(snakemake.wildcards.seed),
            directory=str(directory),
            metrics=snakemake.output.metrics,
            pretrained=snakemake.input.get("pretrained"),
        )
