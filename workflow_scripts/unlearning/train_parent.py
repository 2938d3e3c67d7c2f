"""Train the small model that answers questions and does not know what will be forgotten."""

from common import job

with job(snakemake):
    from pathlib import Path

    import pandas as pd

    from editlab.config.unlearning import QuestionModel
    from editlab.files.artifacts import replace_directory, write_csv
    from editlab.randomness import set_threads
    from editlab.training.answering import train_answerer
    from editlab.training.parametrisation import save_model
    from editlab.unlearning.facts import load_facts, load_neutral

    set_threads(snakemake.threads)
    facts, neutral = load_facts(Path(snakemake.input.facts)), load_neutral(Path(snakemake.input.facts))
    options, seed = QuestionModel.model_validate(snakemake.params.options), int(snakemake.wildcards.seed)
    model, log = train_answerer(facts.retained, facts.forget, neutral["training"], options, seed)
    with replace_directory(snakemake.output.model) as directory:
        save_model(model, directory)
    write_csv(snakemake.output.training, pd.DataFrame(log))
