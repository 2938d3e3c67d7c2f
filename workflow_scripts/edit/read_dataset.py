"""Read a file of requests of any known form into CounterFact-schema requests, and say what was read and left out."""

from common import job

from editlab.config.data import Reserve
from editlab.data import read_dataset
from editlab.data.download import check_file
from editlab.data.facts import with_sweep_facts
from editlab.data.requests import write_requests
from editlab.files.artifacts import write_json

with job(snakemake):
    if snakemake.params.sha256:
        check_file(snakemake.input.source, snakemake.params.sha256)
    options = snakemake.params
    data = read_dataset(snakemake.input.source, options.kind, skip_invalid=options.skip_invalid, size=options.size)
    write_json(snakemake.output.account, data.account)
    kept = Reserve(sweep_facts=options.sweep_facts).kept(len(data.requests))
    write_requests(with_sweep_facts(data.requests, kept), snakemake.output.requests)
