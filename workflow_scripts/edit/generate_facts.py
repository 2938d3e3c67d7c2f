"""Generate the small world of facts as CounterFact-schema requests."""

from common import job

from editlab.data.facts import make_facts
from editlab.data.requests import write_requests

with job(snakemake):
    p = snakemake.params
    facts = make_facts(p.size, p.world_seed, p.chains, facts_a_subject=p.facts_a_subject, sweep_facts=p.sweep_facts)
    write_requests(facts, snakemake.output[0])
