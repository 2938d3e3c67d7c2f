"""The events of many cells as one file."""

from common import job

with job(snakemake):
    from editlab.editing.events import gather_events
    from editlab.files.artifacts import atomic_path

    pairs = zip(snakemake.input.events, snakemake.params.cells, strict=True)
    with atomic_path(snakemake.output[0]) as path, path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in gather_events(pairs))
