"""Make a chosen point again, save the model, and score what is loaded from the file."""

from common import job
from unlearning_job import on_model, perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory

    given = snakemake.params
    with replace_directory(snakemake.output.model) as directory:
        perform(
            snakemake,
            log,
            "editlab.unlearning.runs:keep_stage",
            given=on_model(snakemake),
            chosen=snakemake.input.chosen,
            point=given.point,
            method=given.method,
            rank=given.rank,
            directory=str(directory),
            target=snakemake.output.scores,
        )
