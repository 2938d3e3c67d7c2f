"""Find the discovery images that a classifier gets wrong; stop with one line where there are too few to edit."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.vision.samples:errors_stage",
        model=snakemake.input.model,
        discovery=snakemake.input.discovery[0],
        data=snakemake.params.data,
        name=snakemake.wildcards.dataset,
        target=snakemake.output[0],
    )
