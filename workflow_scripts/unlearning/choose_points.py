"""Choose which epoch of which run stands for a method, by rules that look at no attack."""

from common import job
from unlearning_job import perform

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.unlearning.selection:choose_stage",
        files=list(snakemake.input),
        points=snakemake.params.points,
        selection=snakemake.params.selection,
        scoring=snakemake.params.scoring,
        target=snakemake.output[0],
    )
