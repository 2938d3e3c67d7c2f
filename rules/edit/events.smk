# What became of every batch that was judged, in one file: a line a batch, with the coordinates of its cell.


rule gather_events:
    input:
        events=[path for path, _ in judged_events()],
    output:
        "<results>/trust_events.jsonl",
    log:
        "<logs>/gather_events.log",
    benchmark:
        "<results>/benchmarks/rules/gather_events.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("gather_events", "mem_mb"),
        runtime=resource("gather_events", "runtime"),
    params:
        cells=[cell for _, cell in judged_events()],
        code=code_digest("edit/gather_events"),
    message:
        "Gather what became of the batches that trust judged"
    script:
        "../../workflow_scripts/edit/gather_events.py"
