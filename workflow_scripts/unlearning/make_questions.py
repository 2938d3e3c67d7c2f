"""Make or read the facts of a seed, with neutral sentences to train on and others to measure on."""

from common import job

with job(snakemake):
    from pathlib import Path

    from pydantic import TypeAdapter

    from editlab.config.unlearning import Data
    from editlab.files.artifacts import replace_directory, write_json
    from editlab.unlearning.facts import neutral_texts, study_facts, write_facts

    options = TypeAdapter(Data).validate_python(snakemake.params.data)
    seed = int(snakemake.wildcards.seed)
    with replace_directory(snakemake.output[0]) as directory:
        write_facts(study_facts(options, seed), Path(directory))
        texts = neutral_texts(options, snakemake.params.training, snakemake.params.held_out, seed)
        write_json(Path(directory, "neutral.json"), texts)
