"""Which facts the model completes correctly before any edit: shared by all cells."""

from common import job

with job(snakemake):
    from editlab.data import load_requests
    from editlab.evaluation.scoring import score_known
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    model = load_model(snakemake.input.model, **snakemake.params.loading)
    write_csv(snakemake.output[0], score_known(model, load_requests(snakemake.input.requests)))
