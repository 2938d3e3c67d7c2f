# Which edits retraining on a part of the true facts brings back.


rule retrain_edits:
    input:
        unpack(cell_inputs),
        edit=f"<results>/edit/retraining/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}/edit.safetensors",
    output:
        f"<results>/retrained/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}.csv",
    log:
        "<logs>/retrain_edits/{model}-{dataset}-{method}-{batch}-{replay}-{rank}-{seed}.log",
    benchmark:
        f"<results>/benchmarks/rules/retrain_edits/{{model}}-{{dataset}}/{CELLS.wildcard_pattern}.jsonl"
    group:
        small_jobs("retrain_edits", "cells", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("retrain_edits", "mem_mb", STUDY),
        runtime=model_resource("retrain_edits", "runtime", STUDY),
        gpu=model_resource("retrain_edits", "gpu", STUDY),
    params:
        options=STUDY.retraining.model_dump(),
        cell_seed=lambda w: int(w.seed),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/retrain_edits"),
    message:
        "Retrain {wildcards.model} after {wildcards.method} on the true objects of a part of the edited facts"
    script:
        "../../workflow_scripts/edit/retrain_edits.py"
