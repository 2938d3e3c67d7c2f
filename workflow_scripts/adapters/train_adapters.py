"""Train a pool of LoRA teachers of one seed: from a shared A_0, from their own, or one for all tasks."""

from common import job

with job(snakemake):
    from editlab.adapters.preparation import make_pools
    from editlab.config.adapters import AdaptersStudy
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    study = AdaptersStudy.model_validate(snakemake.params.study)
    make_pools(study, snakemake.params.seed, snakemake.input.base, snakemake.wildcards.pool).save(snakemake.output[0])
