"""Measure the deltas of a pool, the ways to pool them, and the gates of the study."""

from common import job

with job(snakemake):
    from editlab.adapters.bench import Bench
    from editlab.adapters.stages import measure_deltas
    from editlab.config.adapters import AdaptersStudy
    from editlab.files.artifacts import write_csv, write_json
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    study = AdaptersStudy.model_validate(snakemake.params.study)
    bench = Bench.open(study, snakemake.params.seed, snakemake.input.base, snakemake.input.pool)
    deltas, pooling, gates = measure_deltas(bench, snakemake.output.known)
    write_csv(snakemake.output.deltas, deltas)
    write_csv(snakemake.output.pooling, pooling)
    write_json(snakemake.output.gates, gates)
