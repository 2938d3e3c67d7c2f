"""Predict deltas from descriptions, retrieve adapters by them, and score what comes of it."""

from common import job

with job(snakemake):
    from editlab.adapters.bench import Bench
    from editlab.adapters.stages import compare_retrieval
    from editlab.config.adapters import AdaptersStudy
    from editlab.files.artifacts import write_csv
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    study = AdaptersStudy.model_validate(snakemake.params.study)
    files = snakemake.input
    bench = Bench.open(study, snakemake.params.seed, files.base, files.pool, files.deltas)
    scores, retrieved = compare_retrieval(bench)
    write_csv(snakemake.output.scores, scores)
    write_csv(snakemake.output.retrieved, retrieved)
