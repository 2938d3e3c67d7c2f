"""Merge retrieved adapters by every rule, in both spaces, from both pools."""

from common import job

with job(snakemake):
    from editlab.adapters.bench import Bench
    from editlab.adapters.merge_table import compare_merges
    from editlab.adapters.pool import Pool
    from editlab.config.adapters import AdaptersStudy
    from editlab.files.artifacts import write_csv
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    study = AdaptersStudy.model_validate(snakemake.params.study)
    files = snakemake.input
    bench = Bench.open(study, snakemake.params.seed, files.base, files.pool, files.deltas)
    own = [Pool.load(path) for path in snakemake.input.own]
    write_csv(snakemake.output[0], compare_merges(bench, own[0] if own else None))
