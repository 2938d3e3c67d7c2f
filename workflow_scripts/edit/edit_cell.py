"""One cell: edit a stream of facts with one method, and score it right away, along the way and at the end."""

from common import job

with job(snakemake) as log:
    import json

    from editlab.files.worker import call

    inputs, layers = snakemake.input, snakemake.input.get("layers")
    files = {name: inputs.get(name) for name in ("model", "requests", "known", "contexts")}
    call(
        "editlab.editing.cell:run_cell",
        {
            "plan": {**snakemake.params.cell, "code": snakemake.params.code},
            "threads": snakemake.threads,
            **files,
            "statistics": list(inputs.get("statistics", [])),
            "layers": json.load(open(layers, encoding="utf-8"))["layers"] if layers else None,
            "matched": inputs.get("matched"),
            "guards": inputs.get("guards"),
            "outputs": dict(snakemake.output.items()),
        },
        preload=[("editlab.editing.cell:warm_up", {"model": inputs.model})],
        log=log,
    )
