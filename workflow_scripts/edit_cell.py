"""One cell: edit a stream of facts with one method, and score it right away, along the way and at the end."""

from common import job

with job(snakemake):
    import json

    from editlab.edit.cell import CellPlan, run_cell
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    inputs = {name: snakemake.input.get(name) for name in ("model", "requests", "known", "contexts")}
    layers = snakemake.input.get("layers")
    run_cell(
        CellPlan(**snakemake.params.cell, code=snakemake.params.code),
        **inputs,
        statistics=list(snakemake.input.get("statistics", [])),
        layers=json.load(open(layers, encoding="utf-8"))["layers"] if layers else None,
        outputs=dict(snakemake.output.items()),
    )
