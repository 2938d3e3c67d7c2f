"""Attack a model: retrain it on the other facts, and see what of the held-out ones comes back."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.config.unlearning import Retraining, Scoring
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads
    from editlab.unlearning.facts import load_facts
    from editlab.unlearning.runs import attack_kept

    set_threads(snakemake.threads)
    table = attack_kept(
        Path(snakemake.input.model),
        lambda: load_model(snakemake.input.model, **snakemake.params.loading),
        load_facts(Path(snakemake.input.facts)),
        snakemake.params.split,
        Retraining.model_validate(snakemake.params.options),
        Scoring.model_validate(snakemake.params.scoring),
        kind=snakemake.params.attack,
        seed=snakemake.params.study_seed,
    )
    write_csv(snakemake.output[0], table)
