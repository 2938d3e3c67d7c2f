"""Convert pickled liver images to a plain npz; nothing that is in them is run."""

from common import job

with job(snakemake):
    from editlab.data.liver import convert_liver

    convert_liver(snakemake.input.images, snakemake.input.labels, snakemake.output[0])
