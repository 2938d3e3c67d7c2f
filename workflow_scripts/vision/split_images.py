"""Split a data set into the four sets of the protocol."""

from pathlib import Path

from common import job

with job(snakemake):
    from editlab.config.images import DATA
    from editlab.data.image_sets import write_sets

    source = snakemake.input.get("source")
    write_sets(Path(snakemake.output[0]).parent, DATA.validate_python(snakemake.params.data), source or None)
