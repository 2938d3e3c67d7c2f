"""Train a generator of adapters, score it, check it, and save the adapters of the held-out tasks."""

from common import job

with job(snakemake):
    from editlab.adapters.bench import Bench
    from editlab.adapters.generation import generate
    from editlab.config.adapters import AdaptersStudy
    from editlab.files.artifacts import write_csv, write_json
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    study = AdaptersStudy.model_validate(snakemake.params.study)
    files = snakemake.input
    bench = Bench.open(study, snakemake.params.seed, files.base, files.pool, files.deltas)
    scores, choices, checks, adapters = generate(bench, snakemake.params.decoder, snakemake.params.supervision)
    write_csv(snakemake.output.scores, scores)
    write_csv(snakemake.output.choices, choices)
    write_json(snakemake.output.checks, checks)
    adapters.save(snakemake.output.adapters)
