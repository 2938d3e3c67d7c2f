"""A model of a true size with random weights: its configuration, a tokenizer and a seed."""

from common import job

with job(snakemake):
    from editlab.config.models import RandomModel
    from editlab.data import load_requests
    from editlab.files.artifacts import replace_directory
    from editlab.training.random_model import write_random_model

    options = RandomModel.model_validate(snakemake.params.options)
    with replace_directory(snakemake.output.model) as directory:
        write_random_model(directory, options, load_requests(snakemake.input.requests))
