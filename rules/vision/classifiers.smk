# Classifiers: trained on FT-Train, stopped by FT-Val; their discovery errors, preserved keys, and layers.


rule fetch_vit:
    output:
        directory("<inputs>/vision/pretrained/{vit}"),
    log:
        "<logs>/fetch_vit/{vit}.log",
    benchmark:
        "<results>/benchmarks/rules/fetch_vit/{vit}.jsonl"
    wildcard_constraints:
        vit=vision_names([n for n, m in VISION.models.items() if isinstance(m, HubViT)]),
    localrule: True
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("fetch_vit", "mem_mb"),
        runtime=resource("fetch_vit", "runtime"),
    params:
        source=lambda w: VISION.models[w.vit].id,
        revision=lambda w: VISION.models[w.vit].revision,
        code=code_digest("vision/fetch_vit"),
    message:
        "Fetch {wildcards.vit} from the hub, or link its directory"
    script:
        "../../workflow_scripts/vision/fetch_vit.py"


rule train_vit:
    input:
        unpack(vision_pretrained),
        ft_train=vision_set("ft_train"),
        ft_val=vision_set("ft_val"),
    output:
        model=directory("<inputs>/vision/{dataset}/models/seed~{seed}"),
        metrics="<inputs>/vision/{dataset}/seed~{seed}/training_metrics.csv",
    log:
        "<logs>/train_vit/{dataset}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/train_vit/{dataset}-{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("train_vit", "mem_mb"),
        runtime=vision_resource("train_vit", "runtime"),
        gpu=vision_resource("train_vit", "gpu"),
    params:
        section=lambda w: vision_model(w.dataset).model_dump(mode="json"),
        data=lambda w: vision_data(w.dataset).model_dump(mode="json"),
        code=code_digest("vision/train_vit"),
    message:
        "Train the classifier of {wildcards.dataset}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/vision/train_vit.py"


rule find_errors:
    input:
        model="<inputs>/vision/{dataset}/models/seed~{seed}",
        discovery=vision_set("discovery"),
    output:
        "<results>/vision/{dataset}/seed~{seed}/errors.csv",
    log:
        "<logs>/find_errors/{dataset}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/find_errors/{dataset}-{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("find_errors", "mem_mb"),
        runtime=vision_resource("find_errors", "runtime"),
        gpu=vision_resource("find_errors", "gpu"),
    params:
        data=lambda w: vision_data(w.dataset).model_dump(mode="json"),
        device=vision_device,
        code=code_digest("vision/find_errors"),
    message:
        "Find the discovery errors of {wildcards.dataset}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/vision/find_errors.py"


rule collect_keys:
    input:
        model="<inputs>/vision/{dataset}/models/seed~{seed}",
        ft_train=vision_set("ft_train"),
    output:
        "<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
    log:
        "<logs>/collect_keys/{dataset}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/collect_keys/{dataset}-{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("collect_keys", "mem_mb"),
        runtime=vision_resource("collect_keys", "runtime"),
        gpu=vision_resource("collect_keys", "gpu"),
    params:
        samples=vision_samples(),
        device=vision_device,
        code=code_digest("vision/collect_keys"),
    message:
        "Collect the keys that edits of {wildcards.dataset}, seed {wildcards.seed}, preserve"
    script:
        "../../workflow_scripts/vision/collect_keys.py"


rule locate_layers:
    input:
        model="<inputs>/vision/{dataset}/models/seed~{seed}",
        discovery=vision_set("discovery"),
        errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
        preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
    output:
        importance="<results>/vision/{dataset}/seed~{seed}/layer_importance.csv",
        statistics="<results>/vision/{dataset}/seed~{seed}/layer_statistics.csv",
        summary="<results>/vision/{dataset}/seed~{seed}/location.json",
    log:
        "<logs>/locate_layers/{dataset}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/locate_layers/{dataset}-{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("locate_layers", "mem_mb"),
        runtime=vision_resource("locate_layers", "runtime"),
        gpu=vision_resource("locate_layers", "gpu"),
    params:
        options=VISION.locating.model_dump(mode="json"),
        trial=VISION.methods[VISION.locating.trial].model_dump(mode="json"),
        max_edits=VISION.max_edits,
        device=vision_device,
        code=code_digest("vision/locate_layers"),
    message:
        "Trace the errors of {wildcards.dataset}, seed {wildcards.seed}, and try edits layer by layer"
    script:
        "../../workflow_scripts/vision/locate_layers.py"
