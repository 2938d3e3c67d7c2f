"""Run a function of the vision study in a child of one warm process, so that hundreds of short jobs pay its imports once."""

from editlab.files.worker import call

WARM = [("editlab.vision.warm:warm_up", {})]


def perform(snakemake, log, function, /, **arguments):
    """``function`` (``module:name``) with JSON ``arguments``, and as many threads as the rule has."""
    log.used = call(function, {**arguments, "threads": snakemake.threads}, worker="vision", preload=WARM, log=log)
