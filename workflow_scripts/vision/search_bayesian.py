"""Search by Bayesian optimisation over the space that the axes span."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    with replace_directory(snakemake.output[0]) as directory:
        perform(
            snakemake,
            log,
            "editlab.vision.search:bayesian_stage",
            model=snakemake.input.model,
            discovery=snakemake.input.discovery[0],
            errors=snakemake.input.errors,
            keys=snakemake.input.preserved,
            statistics=snakemake.input.get("statistics") or None,
            recipe=snakemake.params.recipe,
            max_edits=snakemake.params.max_edits,
            axes=snakemake.params.axes,
            trials=snakemake.params.trials,
            seed=int(snakemake.wildcards.seed),
            directory=str(directory),
        )
