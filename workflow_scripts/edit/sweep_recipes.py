"""Every point of the grid on held-out facts, and the best points of each method."""

from common import job

with job(snakemake):
    import json

    from editlab.data import load_requests
    from editlab.data.corpus import read_known
    from editlab.editing.sweep import best_points, held_out_facts, run_sweep
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    p, inputs = snakemake.params, snakemake.input
    known = read_known(inputs.known) if p.known_only else None
    requests = load_requests(inputs.requests)
    table = run_sweep(
        load_model(inputs.model, **p.loading),
        held_out_facts(requests, known, p.facts, p.seeds),
        p.recipes,
        p.axes,
        statistics=list(inputs.statistics),
        curvature=list(inputs.curvature),
        contexts=json.load(open(inputs.contexts, encoding="utf-8")),
        records=requests,
        batch=p.batch,
    )
    write_csv(snakemake.output.points, table)
    write_csv(snakemake.output.best, best_points(table))
