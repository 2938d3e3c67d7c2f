"""Make the edits of all draws of a method."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    with replace_directory(snakemake.output.draws) as directory:
        perform(
            snakemake,
            log,
            "editlab.vision.methods:edit_stage",
            model=snakemake.input.model,
            discovery=snakemake.input.discovery[0],
            errors=snakemake.input.errors,
            keys=snakemake.input.preserved,
            ft_train=snakemake.input.ft_train[0],
            statistics=snakemake.input.get("statistics") or None,
            recipe=snakemake.params.recipe,
            draws=list(range(snakemake.params.draws)),
            max_edits=int(snakemake.wildcards.edits),
            seed=int(snakemake.wildcards.seed),
            directory=str(directory),
            log=snakemake.output.log,
            layers=snakemake.output.layers,
        )
