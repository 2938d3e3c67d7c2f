"""Curvature of the model's loss at all edited maps in one pass over the text."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.config.preparation import Statistics
    from editlab.data.corpus import statistics_texts
    from editlab.moments.curvature import collect_curvature
    from editlab.moments.stored_curvature import save_curvature
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    options, layers = Statistics.model_validate(snakemake.params.statistics), list(snakemake.params.layers)
    model = load_model(snakemake.input.model, **snakemake.params.loading)
    texts = statistics_texts(snakemake.input.get("text"), snakemake.input.get("requests"), *snakemake.params.neutral)
    found = collect_curvature(model, texts, layers, options, partial=Path(snakemake.params.partial))
    for layer, path in zip(layers, snakemake.output, strict=True):
        save_curvature(path, layer, found.pop(layer), device=model.device)
    Path(snakemake.params.partial).unlink(missing_ok=True)
