"""Run a function of the vision study in a child of one warm process, so that hundreds of short jobs pay its imports once."""

from editlab.files.worker import call

WARM = [("editlab.vision.warm:warm_up", {})]


def perform(snakemake, log, function, /, **arguments):
    """``function`` (``module:name``) with JSON ``arguments``, as many threads as the rule has, and its device."""
    given = {**arguments, "threads": snakemake.threads}
    if (device := snakemake.params.get("device")) is not None:
        given["device"] = device
    log.used = call(function, given, worker="vision", preload=WARM, log=log)


def search(snakemake, log, function, **arguments):
    """``perform`` for a part of the search: all parts look at the same files and recipe, and leave a directory."""
    from editlab.files.artifacts import replace_directory

    given, parameters = snakemake.input, snakemake.params
    with replace_directory(snakemake.output[0]) as directory:
        perform(
            snakemake,
            log,
            function,
            model=given.model,
            discovery=given.discovery[0],
            errors=given.errors,
            keys=given.preserved,
            statistics=given.get("statistics") or None,
            recipe=parameters.recipe,
            max_edits=parameters.max_edits,
            directory=str(directory),
            **arguments,
        )
