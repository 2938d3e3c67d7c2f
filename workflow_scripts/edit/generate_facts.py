"""Generate the small world of facts as CounterFact-schema requests."""

from common import job

from editlab.data.facts import make_facts
from editlab.data.requests import write_requests

with job(snakemake):
    facts = make_facts(snakemake.params.size, snakemake.params.world_seed)
    write_requests(facts, snakemake.output[0])
