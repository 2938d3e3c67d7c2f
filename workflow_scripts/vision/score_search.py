"""Score the cells of a search on test, which none of them was chosen by."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    perform(
        snakemake,
        log,
        "editlab.vision.search:score_cells",
        directory=snakemake.input.cells,
        model=snakemake.input.model,
        test=snakemake.input.test[0],
        ft_train=snakemake.input.ft_train[0],
        keys=snakemake.input.preserved,
        heldout=snakemake.params.heldout_samples,
        target=snakemake.output[0],
    )
