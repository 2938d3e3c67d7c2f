"""Read a CounterFact, EasyEdit or zsRE file into CounterFact-schema requests."""

from common import job

from editlab.data import load_requests
from editlab.data.download import check_file
from editlab.data.requests import write_requests

with job(snakemake):
    if snakemake.params.sha256:
        check_file(snakemake.input.source, snakemake.params.sha256)
    write_requests(load_requests(snakemake.input.source, snakemake.params.kind), snakemake.output[0])
