"""Link a model directory, or the snapshot of a hub model at its revision."""

from common import job

with job(snakemake):
    from editlab.files.artifacts import replace_directory
    from editlab.networks.fetching import fetch

    with replace_directory(snakemake.output.model) as directory:
        fetch(snakemake.params.source, directory, revision=snakemake.params.revision)
