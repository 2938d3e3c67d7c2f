"""Write one generated adapter as PEFT loads it."""

from common import job

with job(snakemake):
    from editlab.adapters.generation import export
    from editlab.adapters.pool import Pool
    from editlab.files.artifacts import replace_directory
    from editlab.networks.loading import load_model

    pool, model = Pool.load(snakemake.input.adapters), load_model(snakemake.input.base)
    with replace_directory(snakemake.output[0]) as directory:
        export(pool, snakemake.params.task, model, directory)
