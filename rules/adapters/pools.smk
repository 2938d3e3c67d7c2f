# What everything else of the adapters study stands on: a base model and pools of LoRA teachers, for each seed.


if isinstance(ADAPTERS.base, TrainedBase):

    rule train_adapters_base:
        output:
            base=directory("<inputs>/adapters/seed~{seed}/base"),
            training="<inputs>/adapters/seed~{seed}/base_training.csv",
        log:
            "<logs>/train_adapters_base/seed~{seed}.log",
        benchmark:
            "<results>/benchmarks/rules/train_adapters_base/seed~{seed}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=adapters_resource("train_adapters_base", "mem_mb"),
            runtime=adapters_resource("train_adapters_base", "runtime"),
        params:
            study=adapters_study("tasks", "base"),
            seed=lambda w: int(w.seed),
            code=code_digest("adapters/train_adapters_base"),
        message:
            "Train the base of seed {wildcards.seed} on descriptions of tasks"
        script:
            "../../workflow_scripts/adapters/train_adapters_base.py"

else:

    rule fetch_adapters_base:
        output:
            base=directory("<inputs>/adapters/seed~{seed}/base"),
        log:
            "<logs>/fetch_adapters_base/seed~{seed}.log",
        benchmark:
            "<results>/benchmarks/rules/fetch_adapters_base/seed~{seed}.jsonl"
        # The node of the submission is the one that has a network.
        localrule: True
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=resource("fetch_adapters_base", "mem_mb"),
            runtime=resource("fetch_adapters_base", "runtime"),
        params:
            source=ADAPTERS.base.id,
            revision=ADAPTERS.base.revision,
            code=code_digest("adapters/fetch_adapters_base"),
        message:
            "Fetch the base of the adapters from the hub, or link its directory"
        script:
            "../../workflow_scripts/adapters/fetch_adapters_base.py"


rule train_adapters:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
    output:
        "<inputs>/adapters/seed~{seed}/{pool}.safetensors",
    log:
        "<logs>/train_adapters/seed~{seed}-{pool}.log",
    benchmark:
        "<results>/benchmarks/rules/train_adapters/seed~{seed}-{pool}.jsonl"
    wildcard_constraints:
        pool="shared|own|joint",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("train_adapters", "mem_mb"),
        runtime=adapters_resource("train_adapters", "runtime"),
        gpu=adapters_resource("train_adapters", "gpu"),
    params:
        study=adapters_study("tasks", "base", "teachers"),
        seed=lambda w: int(w.seed),
        code=code_digest("adapters/train_adapters"),
    message:
        "Train the pool {wildcards.pool} of seed {wildcards.seed}"
    script:
        "../../workflow_scripts/adapters/train_adapters.py"
