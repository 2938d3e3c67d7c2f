# LoRA-native edits against raw and posthoc ones; which edits retraining brings back.


rule collect_lora:
    input:
        lambda w: cell_files("lora_ablation", "metrics.csv"),
    output:
        table="results/lora_ablation.csv",
        gain="results/lora_gain.csv",
    log:
        "logs/collect_lora.log",
    benchmark:
        "results/benchmarks/rules/collect_lora.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_lora", "mem_mb"),
        runtime=resource("collect_lora", "runtime"),
    params:
        cells=lambda w: finished_cells("lora_ablation"),
        pairs=[("emmet_lora", "emmet_lora_frobenius"), ("emmet_lora", "emmet")],
        code=code_digest("analysis.guarded"),
    message:
        "Compare LoRA-native, posthoc and raw edits"
    script:
        "../workflow_scripts/collect_lora.py"


rule retrain_edits:
    input:
        unpack(cell_inputs),
        edit=f"results/retraining/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}/edit.safetensors",
    output:
        f"results/retrained/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}.csv",
    log:
        "logs/retrain_edits/{model}-{dataset}-{method}-{batch}-{replay}-{rank}-{seed}.log",
    benchmark:
        f"results/benchmarks/rules/retrain_edits/{{model}}-{{dataset}}/{CELLS.wildcard_pattern}.jsonl"
    group:
        small_jobs("retrain_edits", "cells")
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("retrain_edits", "mem_mb"),
        runtime=model_resource("retrain_edits", "runtime"),
        gpu=model_resource("retrain_edits", "gpu"),
    params:
        options=STUDY.retraining.model_dump(),
        cell_seed=lambda w: int(w.seed),
        loading=lambda w: loading(w.model),
        code=code_digest("editing.retraining", "networks.loading"),
    message:
        "Retrain {wildcards.model} after {wildcards.method} on the true objects of a part of the edited facts"
    script:
        "../workflow_scripts/retrain_edits.py"


rule collect_retraining:
    input:
        lambda w: retrained_files(),
    output:
        "results/rtt_edits.csv",
    log:
        "logs/collect_retraining.log",
    benchmark:
        "results/benchmarks/rules/collect_retraining.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_retraining", "mem_mb"),
        runtime=resource("collect_retraining", "runtime"),
    params:
        coordinates=lambda w: STUDY.cells("retraining"),
        code=code_digest("analysis.guarded"),
    message:
        "Collect what retraining brought back"
    script:
        "../workflow_scripts/collect_retraining.py"
