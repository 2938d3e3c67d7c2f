"""Weights and thresholds of the guards, from the labelled batches of streams that a guard has watched."""

from common import job

with job(snakemake):
    from editlab.config.recipe import Trust
    from editlab.data.requests import read_utf8
    from editlab.editing.events import read_events
    from editlab.editing.tuning import choose_guards, labelled
    from editlab.files.artifacts import write_json

    files = list(snakemake.input.events)
    streams = [labelled(read_events(read_utf8(path).splitlines(), path)) for path in files]
    write_json(snakemake.output[0], choose_guards(streams, Trust.model_validate(snakemake.params.options)))
