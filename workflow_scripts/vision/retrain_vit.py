"""Train a classifier anew: with the edit samples in FT-Train, or, for the churn control, with another seed and none."""

from common import job
from vision_job import perform

with job(snakemake) as log:
    from editlab.files.artifacts import replace_directory
    from editlab.randomness import derive_seed

    seed, errors = int(snakemake.wildcards.seed), snakemake.input.get("errors")
    discovery = snakemake.input.get("discovery")
    with replace_directory(snakemake.output.model) as directory:
        perform(
            snakemake,
            log,
            "editlab.vision.training:retrain_stage",
            section=snakemake.params.section,
            ft_train=snakemake.input.ft_train[0],
            ft_val=snakemake.input.ft_val[0],
            discovery=discovery[0] if discovery else None,
            errors=errors,
            draw=int(snakemake.wildcards.draw),
            max_edits=int(snakemake.wildcards.edits),
            seed=seed,
            order_seed=seed if errors else derive_seed("churn", seed),
            directory=str(directory),
            pretrained=snakemake.input.get("pretrained"),
        )
