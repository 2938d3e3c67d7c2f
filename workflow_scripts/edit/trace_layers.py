"""Causal tracing of known facts: what each layer's states give back to a corrupted subject."""

from common import job

with job(snakemake):
    from editlab.config.preparation import Tracing
    from editlab.data import load_requests
    from editlab.data.corpus import read_known, sample_known
    from editlab.editing.tracing import indirect_effects, trace_layers
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    options, out = Tracing.model_validate(snakemake.params.tracing), snakemake.output
    known = read_known(snakemake.input.known) if options.known_only else None
    requests = sample_known(load_requests(snakemake.input.requests), known, options.cases, 0)
    model = load_model(snakemake.input.model, **snakemake.params.loading)
    trace = trace_layers(model, requests, options)
    write_csv(out.trace, trace)
    write_csv(out.effects, indirect_effects(trace))
