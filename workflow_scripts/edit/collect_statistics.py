"""Second moments of the keys of all layers in one pass over the text."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.config.preparation import Statistics
    from editlab.data.corpus import statistics_texts
    from editlab.moments.collection import collect_second_moments
    from editlab.moments.stored import read_published, save_statistics
    from editlab.networks.loading import fastest_device, load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    options, layers = Statistics.model_validate(snakemake.params.statistics), list(snakemake.params.layers)
    if options.published is not None:
        moments = dict(zip(layers, map(read_published, snakemake.input.published), strict=True))
        device = fastest_device()
    else:
        model = load_model(snakemake.input.model, **snakemake.params.loading)
        texts = statistics_texts(
            snakemake.input.get("text"), snakemake.input.get("requests"), *snakemake.params.neutral
        )
        moments = collect_second_moments(model, texts, layers, options, partial=Path(snakemake.params.partial))
        device = model.device
    for layer, path in zip(layers, snakemake.output, strict=True):
        save_statistics(path, layer, moments.pop(layer), device=device)
    Path(snakemake.params.partial).unlink(missing_ok=True)
