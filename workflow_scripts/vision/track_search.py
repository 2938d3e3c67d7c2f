"""Hand the table of a search to Weights & Biases, offline unless the configuration says otherwise."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.config.vision import Tracking
    from editlab.files.artifacts import replace_directory
    from editlab.vision.tracking import track

    with replace_directory(snakemake.output[0]) as directory:
        options = Tracking.model_validate(snakemake.params.options)
        track(pd.read_csv(snakemake.input[0]), snakemake.params.name, options, directory)
