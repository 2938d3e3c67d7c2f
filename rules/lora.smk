# LoRA-native edits against raw and posthoc ones; which edits retraining brings back.


rule collect_lora:
    input:
        lambda w: cell_files("lora_ablation", "metrics.csv"),
    output:
        table=OUT + "/lora_ablation.csv",
        gain=OUT + "/lora_gain.csv",
    log:
        LOGS + "/collect_lora.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_lora.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_lora", "mem_mb"),
        runtime=resource("collect_lora", "runtime"),
    params:
        missing=lambda w: holes(cell_files("lora_ablation", "metrics.csv")),
        cells=lambda w: finished_cells("lora_ablation"),
        pairs=[("emmet_lora", "emmet_lora_frobenius"), ("emmet_lora", "emmet")],
        code=code_digest("collect_lora"),
    message:
        "Compare LoRA-native, posthoc and raw edits"
    script:
        "../workflow_scripts/collect_lora.py"


rule collect_retraining:
    input:
        lambda w: retrained_files(),
    output:
        OUT + "/rtt_edits.csv",
    log:
        LOGS + "/collect_retraining.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_retraining.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_retraining", "mem_mb"),
        runtime=resource("collect_retraining", "runtime"),
    params:
        missing=lambda w: holes(retrained_files()),
        coordinates=lambda w: STUDY.cells("retraining"),
        code=code_digest("collect_retraining"),
    message:
        "Collect what retraining brought back"
    script:
        "../workflow_scripts/collect_retraining.py"
