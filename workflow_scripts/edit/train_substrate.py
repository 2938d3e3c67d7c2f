"""Train the small model on the true statements of a dataset, and save it with its training log."""

from common import job

with job(snakemake):
    from pathlib import Path

    import pandas as pd

    from editlab.config.models import Substrate
    from editlab.data import load_requests
    from editlab.data.corpus import substrate_corpus
    from editlab.files.artifacts import replace_directory, write_csv
    from editlab.networks.loading import fastest_device
    from editlab.randomness import set_threads
    from editlab.training.substrate import train_substrate

    set_threads(snakemake.params.torch_threads)
    options = Substrate.model_validate(snakemake.params.options)
    corpus = substrate_corpus(load_requests(snakemake.input.requests), options.neutral_sentences, options.seed)
    device = fastest_device() if snakemake.params.device == "auto" else "cpu"
    model, log = train_substrate(
        corpus.statements,
        corpus.neutral,
        options,
        rewrites=corpus.rewrites,
        subjects=corpus.subjects,
        device=device,
        partial=snakemake.params.partial,
        code=snakemake.params.code,
    )
    with replace_directory(snakemake.output.model) as directory:
        model.save_pretrained(directory)
        model.tokenizer.save_pretrained(directory)
    write_csv(snakemake.output.training, pd.DataFrame(log))
    Path(snakemake.params.partial).unlink(missing_ok=True)
