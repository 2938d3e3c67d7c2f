"""Teach a model the facts that will be forgotten, as a whole or in its lower half alone."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.config.unlearning import Learning
    from editlab.files.artifacts import replace_directory
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads
    from editlab.training.parametrisation import save_model
    from editlab.unlearning.facts import load_facts
    from editlab.unlearning.runs import learned

    set_threads(snakemake.threads)
    options = Learning.model_validate(snakemake.params.options)
    model = learned(
        load_model(snakemake.input.parent, **snakemake.params.loading),
        load_facts(Path(snakemake.input.facts)),
        options,
        int(snakemake.wildcards.seed),
        lower_half=snakemake.wildcards.base == "hidden",
    )
    with replace_directory(snakemake.output[0]) as directory:
        save_model(model, directory)
