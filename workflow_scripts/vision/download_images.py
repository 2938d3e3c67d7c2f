"""Fetch an image data set over https and check its md5."""

from common import job

from editlab.data.download import download

with job(snakemake):
    download(snakemake.params.url, snakemake.output[0], snakemake.params.checksum)
