"""Attack a model: retrain it on the other facts, and see what of the held-out ones comes back."""

from common import job
from unlearning_job import on_model, perform

with job(snakemake) as log:
    given = snakemake.params
    perform(
        snakemake,
        log,
        "editlab.unlearning.attacks:attack_stage",
        given=on_model(snakemake),
        splits=given.splits,
        options=given.options,
        kind=given.attack,
        target=snakemake.output[0],
    )
