"""Run a stage of the unlearning study in a child of one warm process, so that hundreds of short jobs pay its imports once."""

from editlab.files.worker import call

WARM = [("editlab.unlearning.warm:warm_up", {})]


def perform(snakemake, log, function, /, **arguments):
    """``function`` (``module:name``) with JSON ``arguments``."""
    log.used = call(function, arguments, worker="unlearning", preload=WARM, log=log)


def on_model(snakemake):
    """What every stage on a model is told (:class:`editlab.unlearning.stage.Stage`)."""
    found, given = snakemake.input, snakemake.params
    about = {"model": found.model, "facts": found.facts, "loading": given.loading, "scoring": given.scoring}
    return {**about, "seed": given.study_seed, "threads": snakemake.threads}
