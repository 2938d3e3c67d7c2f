"""Make a chosen point again, save the model, and score what is loaded from the file."""

from common import job

with job(snakemake):
    import json
    from pathlib import Path

    from editlab.config.unlearning import Method, Scoring
    from editlab.files.artifacts import replace_directory, write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads
    from editlab.unlearning.facts import load_facts, load_neutral
    from editlab.unlearning.runs import keep_point

    set_threads(snakemake.threads)
    facts = Path(snakemake.input.facts)
    chosen = json.loads(Path(snakemake.input.chosen).read_text(encoding="utf-8"))[snakemake.params.point]
    with replace_directory(snakemake.output.model) as directory:
        scores = keep_point(
            lambda: load_model(snakemake.input.model, **snakemake.params.loading),
            load_facts(facts),
            load_neutral(facts)["held_out"],
            Method.model_validate(snakemake.params.method),
            Scoring.model_validate(snakemake.params.scoring),
            Path(directory),
            chosen,
            rank=snakemake.params.rank,
            seed=snakemake.params.study_seed,
        )
    write_csv(snakemake.output.scores, scores)
