"""Score the adapters that a generated one must be held against."""

from common import job

with job(snakemake):
    from editlab.adapters.bench import Bench
    from editlab.adapters.pool import Pool
    from editlab.adapters.stages import compare_references
    from editlab.config.adapters import AdaptersStudy
    from editlab.files.artifacts import write_csv
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    study = AdaptersStudy.model_validate(snakemake.params.study)
    files = snakemake.input
    bench = Bench.open(study, snakemake.params.seed, files.base, files.pool, files.deltas)
    write_csv(snakemake.output[0], compare_references(bench, Pool.load(snakemake.input.joint)))
