"""Fetch the base of the adapters from the hub, or link its directory."""

from common import job

with job(snakemake):
    from editlab.files.artifacts import replace_directory
    from editlab.networks.fetching import fetch

    with replace_directory(snakemake.output.base) as directory:
        fetch(snakemake.params.source, directory, revision=snakemake.params.revision)
