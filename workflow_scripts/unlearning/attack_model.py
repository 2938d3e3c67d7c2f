"""Attack a model: retrain it on the other facts, and see what of the held-out ones comes back."""

from common import job
from unlearning_job import perform

with job(snakemake) as log:
    given = snakemake.params
    perform(
        snakemake,
        log,
        "editlab.unlearning.attacks:attack_stage",
        model=snakemake.input.model,
        loading=given.loading,
        facts=snakemake.input.facts,
        splits=given.splits,
        options=given.options,
        scoring=given.scoring,
        kind=given.attack,
        seed=given.study_seed,
        threads=snakemake.threads,
        target=snakemake.output[0],
    )
