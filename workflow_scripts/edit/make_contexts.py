"""Context templates: fixed ones from the config, or prefixes that the model writes itself."""

from common import job

with job(snakemake):
    from editlab.config.preparation import ContextTemplates
    from editlab.editing.keys import check_contexts
    from editlab.evaluation.generation import make_contexts
    from editlab.files.artifacts import write_json
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    options = ContextTemplates.model_validate(snakemake.params.contexts)
    contexts = options.fixed or make_contexts(load_model(snakemake.input.model, **snakemake.params.loading), options)
    write_json(snakemake.output[0], check_contexts(contexts))
