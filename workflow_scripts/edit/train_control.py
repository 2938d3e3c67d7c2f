"""Train a model like the substrate on the new facts of the streams, and score it on their probes."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.config.evaluation import Evaluation
    from editlab.config.models import Substrate
    from editlab.data import load_requests
    from editlab.data.corpus import perplexity_texts, read_known
    from editlab.editing.control import train_control
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.params.torch_threads)
    evaluation = Evaluation.model_validate(snakemake.params.evaluation)
    known = read_known(snakemake.input.known) if snakemake.params.known_only else None
    table = train_control(
        load_model(snakemake.input.model, dtype="float32"),
        load_requests(snakemake.input.requests),
        known,
        Substrate.model_validate(snakemake.params.options),
        evaluation,
        num_edits=snakemake.params.num_edits,
        seeds=snakemake.params.seeds,
        repeats=snakemake.params.repeats,
        texts=perplexity_texts(evaluation.perplexity_sentences, evaluation.perplexity_text),
        partial=snakemake.params.partial,
        code=snakemake.params.code,
    )
    write_csv(snakemake.output[0], table)
    Path(snakemake.params.partial).unlink(missing_ok=True)
