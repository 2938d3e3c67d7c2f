# What is asked of the pools: deltas, references, retrieval, merging, generators; and the tables of all seeds.


rule measure_deltas:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
        pool="<inputs>/adapters/seed~{seed}/shared.safetensors",
    output:
        deltas="<results>/adapters/seed~{seed}/deltas.csv",
        pooling="<results>/adapters/seed~{seed}/pooling.csv",
        gates="<results>/adapters/seed~{seed}/gates.json",
        known="<results>/adapters/seed~{seed}/deltas.safetensors",
    log:
        "<logs>/measure_deltas/seed~{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/measure_deltas/seed~{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("measure_deltas", "mem_mb"),
        runtime=adapters_resource("measure_deltas", "runtime"),
        gpu=adapters_resource("measure_deltas", "gpu"),
    params:
        study=adapters_study(
            "tasks",
            "base",
            "teachers",
            "deltas",
            "features",
            "scores",
            "gates",
            "coefficients",
        ),
        seed=lambda w: int(w.seed),
        code=code_digest("adapters/measure_deltas"),
    message:
        "Measure what the adapters of seed {wildcards.seed} do"
    script:
        "../../workflow_scripts/adapters/measure_deltas.py"


rule compare_references:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
        pool="<inputs>/adapters/seed~{seed}/shared.safetensors",
        deltas="<results>/adapters/seed~{seed}/deltas.safetensors",
        joint="<inputs>/adapters/seed~{seed}/joint.safetensors",
    output:
        "<results>/adapters/seed~{seed}/references.csv",
    log:
        "<logs>/compare_references/seed~{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/compare_references/seed~{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("compare_references", "mem_mb"),
        runtime=adapters_resource("compare_references", "runtime"),
        gpu=adapters_resource("compare_references", "gpu"),
    params:
        study=adapters_study(
            "tasks",
            "base",
            "teachers",
            "deltas",
            "features",
            "scores",
            "retrieval",
        ),
        seed=lambda w: int(w.seed),
        code=code_digest("adapters/compare_references"),
    message:
        "Score the references of seed {wildcards.seed}"
    script:
        "../../workflow_scripts/adapters/compare_references.py"


rule compare_retrieval:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
        pool="<inputs>/adapters/seed~{seed}/shared.safetensors",
        deltas="<results>/adapters/seed~{seed}/deltas.safetensors",
    output:
        scores="<results>/adapters/seed~{seed}/retrieval_scores.csv",
        retrieved="<results>/adapters/seed~{seed}/retrieved.csv",
    log:
        "<logs>/compare_retrieval/seed~{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/compare_retrieval/seed~{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("compare_retrieval", "mem_mb"),
        runtime=adapters_resource("compare_retrieval", "runtime"),
        gpu=adapters_resource("compare_retrieval", "gpu"),
    params:
        study=adapters_study(
            "tasks",
            "base",
            "teachers",
            "deltas",
            "features",
            "scores",
            "retrieval",
            "coefficients",
        ),
        seed=lambda w: int(w.seed),
        code=code_digest("adapters/compare_retrieval"),
    message:
        "Retrieve adapters by predicted deltas (seed {wildcards.seed})"
    script:
        "../../workflow_scripts/adapters/compare_retrieval.py"


rule compare_merges:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
        pool="<inputs>/adapters/seed~{seed}/shared.safetensors",
        deltas="<results>/adapters/seed~{seed}/deltas.safetensors",
        own=lambda w: (
            [f"<inputs>/adapters/seed~{w.seed}/own.safetensors"]
            if ADAPTERS.teachers.own and int(w.seed) in ADAPTERS.own_seeds
            else []
        ),
    output:
        "<results>/adapters/seed~{seed}/merge.csv",
    log:
        "<logs>/compare_merges/seed~{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/compare_merges/seed~{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("compare_merges", "mem_mb"),
        runtime=adapters_resource("compare_merges", "runtime"),
        gpu=adapters_resource("compare_merges", "gpu"),
    params:
        study=adapters_study(
            "tasks",
            "base",
            "teachers",
            "deltas",
            "features",
            "scores",
            "retrieval",
            "merging",
        ),
        seed=lambda w: int(w.seed),
        code=code_digest("adapters/compare_merges"),
    message:
        "Merge adapters by every rule (seed {wildcards.seed})"
    script:
        "../../workflow_scripts/adapters/compare_merges.py"


rule train_generator:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
        pool="<inputs>/adapters/seed~{seed}/shared.safetensors",
        deltas="<results>/adapters/seed~{seed}/deltas.safetensors",
    output:
        scores="<results>/adapters/seed~{seed}/generators/{decoder}-{supervision}/scores.csv",
        choices="<results>/adapters/seed~{seed}/generators/{decoder}-{supervision}/choices.csv",
        checks="<results>/adapters/seed~{seed}/generators/{decoder}-{supervision}/checks.json",
        adapters="<results>/adapters/seed~{seed}/generators/{decoder}-{supervision}/adapters.safetensors",
    log:
        "<logs>/train_generator/seed~{seed}-{decoder}-{supervision}.log",
    benchmark:
        "<results>/benchmarks/rules/train_generator/seed~{seed}-{decoder}-{supervision}.jsonl"
    wildcard_constraints:
        decoder="coefficients|hyperconvolution",
        supervision="weights|both|deltas",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("train_generator", "mem_mb"),
        runtime=adapters_resource("train_generator", "runtime"),
        gpu=adapters_resource("train_generator", "gpu"),
    params:
        study=adapters_study(
            "tasks",
            "base",
            "teachers",
            "deltas",
            "features",
            "scores",
            "coefficients",
            "hyperconvolution",
        ),
        seed=lambda w: int(w.seed),
        decoder=lambda w: w.decoder,
        supervision=lambda w: w.supervision,
        code=code_digest("adapters/train_generator"),
    message:
        "Train the generator {wildcards.decoder} on {wildcards.supervision} (seed {wildcards.seed})"
    script:
        "../../workflow_scripts/adapters/train_generator.py"


rule export_adapter:
    input:
        base="<inputs>/adapters/seed~{seed}/base",
        adapters="<results>/adapters/seed~{seed}/generators/{decoder}-{supervision}/adapters.safetensors",
    output:
        directory(
            "<results>/adapters/seed~{seed}/generators/{decoder}-{supervision}/peft/{task}"
        ),
    log:
        "<logs>/export_adapter/seed~{seed}-{decoder}-{supervision}-{task}.log",
    benchmark:
        "<results>/benchmarks/rules/export_adapter/seed~{seed}-{decoder}-{supervision}-{task}.jsonl"
    wildcard_constraints:
        task="[^/]+",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=adapters_resource("export_adapter", "mem_mb"),
        runtime=adapters_resource("export_adapter", "runtime"),
        gpu=adapters_resource("export_adapter", "gpu"),
    params:
        study=adapters_study("base"),
        task=lambda w: w.task,
        code=code_digest("adapters/export_adapter"),
    message:
        "Write the adapter of {wildcards.task} for PEFT"
    script:
        "../../workflow_scripts/adapters/export_adapter.py"
