"""One point of a grid: unlearn, and score after every epoch."""

from common import job
from unlearning_job import perform

with job(snakemake) as log:
    given = snakemake.params
    perform(
        snakemake,
        log,
        "editlab.unlearning.runs:unlearn_stage",
        model=snakemake.input.model,
        loading=given.loading,
        facts=snakemake.input.facts,
        method=given.method,
        scoring=given.scoring,
        rank=given.rank,
        lr=given.lr,
        retain=given.retain,
        seed=given.study_seed,
        threads=snakemake.threads,
        target=snakemake.output[0],
    )
