"""One point of a grid: unlearn, and score after every epoch."""

from common import job
from unlearning_job import on_model, perform

with job(snakemake) as log:
    given = snakemake.params
    perform(
        snakemake,
        log,
        "editlab.unlearning.runs:unlearn_stage",
        given=on_model(snakemake),
        method=given.method,
        rank=given.rank,
        lr=given.lr,
        retain=given.retain,
        target=snakemake.output[0],
    )
