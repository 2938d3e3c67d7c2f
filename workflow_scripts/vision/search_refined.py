"""Run the cells around the best one of the grid."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    with replace_directory(snakemake.output[0]) as directory:
        perform(
            snakemake,
            log,
            "editlab.vision.search:refined_stage",
            model=snakemake.input.model,
            discovery=snakemake.input.discovery[0],
            errors=snakemake.input.errors,
            keys=snakemake.input.preserved,
            statistics=snakemake.input.get("statistics") or None,
            recipe=snakemake.params.recipe,
            max_edits=snakemake.params.max_edits,
            best=snakemake.input.best,
            factors=snakemake.params.factors,
            directory=str(directory),
        )
