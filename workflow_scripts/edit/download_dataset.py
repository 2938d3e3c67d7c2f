"""Fetch a data file over https and check its md5 or sha256."""

from common import job

from editlab.data.download import download

with job(snakemake):
    download(snakemake.params.url, snakemake.output[0], snakemake.params.checksum)
