"""One point of a grid: unlearn, and score after every epoch."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.config.unlearning import Method, Scoring
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads
    from editlab.unlearning.facts import load_facts, load_neutral
    from editlab.unlearning.runs import run_unlearning

    set_threads(snakemake.threads)
    facts = Path(snakemake.input.facts)
    scores = run_unlearning(
        load_model(snakemake.input.model, **snakemake.params.loading),
        load_facts(facts),
        load_neutral(facts)["held_out"],
        Method.model_validate(snakemake.params.method),
        Scoring.model_validate(snakemake.params.scoring),
        rank=snakemake.params.rank,
        lr=snakemake.params.lr,
        retain=snakemake.params.retain,
        seed=snakemake.params.study_seed,
    )
    write_csv(snakemake.output[0], scores)
