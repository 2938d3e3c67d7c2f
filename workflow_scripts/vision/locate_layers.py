"""Trace discovery errors, try edits layer by layer, and say whether both name the same layer."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.vision.trial:locate_stage",
        model=snakemake.input.model,
        discovery=snakemake.input.discovery[0],
        errors=snakemake.input.errors,
        keys=snakemake.input.preserved,
        options=snakemake.params.options,
        trial=snakemake.params.trial,
        max_edits=snakemake.params.max_edits,
        seed=int(snakemake.wildcards.seed),
        **dict(snakemake.output.items()),
    )
