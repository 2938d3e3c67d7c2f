# Methods: edits of blocks and heads, baselines that train, and the scores of what they left behind.
#
# What edits or trains is not given the test set; what scores chooses nothing.


rule edit_vit:
    input:
        model="<inputs>/vision/{dataset}/models/seed~{seed}",
        discovery=vision_set("discovery"),
        errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
        ft_train=vision_set("ft_train"),
        preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
        statistics=vision_ranking,
    output:
        draws=directory(
            "<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/draws"
        ),
        log="<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/edit_log.csv",
        layers="<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/edit_layers.csv",
    log:
        "<logs>/edit_vit/methods-{dataset}-{method}-{edits}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/edit_vit/{dataset}-{method}-{edits}-{seed}.jsonl"
    wildcard_constraints:
        method=vision_names(MENDED),
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("edit_vit", "mem_mb"),
        runtime=vision_resource("edit_vit", "runtime"),
        gpu=vision_resource("edit_vit", "gpu"),
    params:
        recipe=lambda w: VISION.methods[w.method].model_dump(mode="json"),
        draws=VISION.draws,
        device=vision_device,
        code=code_digest("vision/edit_vit"),
    message:
        "Edit {wildcards.dataset} by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/vision/edit_vit.py"


# The same for the classifier's head; its log has a name of its own.
use rule edit_vit as edit_head with:
    output:
        draws=directory(
            "<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/draws"
        ),
        log="<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/head_edit_log.csv",
        layers="<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/edit_layers.csv",
    log:
        "<logs>/edit_head/methods-{dataset}-{method}-{edits}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/edit_head/{dataset}-{method}-{edits}-{seed}.jsonl"
    wildcard_constraints:
        method=vision_names(HEAD),


rule retrain_vit:
    input:
        unpack(vision_pretrained),
        ft_train=vision_set("ft_train"),
        ft_val=vision_set("ft_val"),
        discovery=vision_set("discovery"),
        errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
    output:
        model=directory(
            "<results>/vision/{dataset}/edits/method~{method}/edits~{edits}/seed~{seed}/draw~{draw}"
        ),
    log:
        "<logs>/retrain_vit/{dataset}-{method}-{edits}-{seed}-{draw}.log",
    benchmark:
        "<results>/benchmarks/rules/retrain_vit/{dataset}-{method}-{edits}-{seed}-{draw}.jsonl"
    wildcard_constraints:
        method=vision_names(
            [n for n, r in VISION.methods.items() if isinstance(r, Retrain)]
        ),
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("retrain_vit", "mem_mb"),
        runtime=vision_resource("retrain_vit", "runtime"),
        gpu=vision_resource("retrain_vit", "gpu"),
    params:
        section=lambda w: vision_model(w.dataset).model_dump(mode="json"),
        code=code_digest("vision/retrain_vit"),
    message:
        "Train {wildcards.dataset} anew with {wildcards.edits} errors, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/vision/retrain_vit.py"


# The control: another seed, no errors, and no look at the discovery set.
use rule retrain_vit as train_again with:
    input:
        unpack(vision_pretrained),
        ft_train=vision_set("ft_train"),
        ft_val=vision_set("ft_val"),
    log:
        "<logs>/train_again/{dataset}-{method}-{edits}-{seed}-{draw}.log",
    benchmark:
        "<results>/benchmarks/rules/train_again/{dataset}-{method}-{edits}-{seed}-{draw}.jsonl"
    wildcard_constraints:
        method=vision_names(
            [n for n, r in VISION.methods.items() if isinstance(r, Churn)]
        ),
    message:
        "Train {wildcards.dataset} with another seed than {wildcards.seed}"


rule score_vit:
    input:
        unpack(vision_outcomes),
        model="<inputs>/vision/{dataset}/models/seed~{seed}",
        discovery=vision_set("discovery"),
        errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
        test=vision_set("test"),
        ft_train=vision_set("ft_train"),
        preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
    output:
        table="<results>/vision/{dataset}/method~{method}/edits~{edits}/seed~{seed}/comparative_evaluation.csv",
        cases="<results>/vision/{dataset}/method~{method}/edits~{edits}/seed~{seed}/changed_images.csv",
        classes="<results>/vision/{dataset}/method~{method}/edits~{edits}/seed~{seed}/per_class.csv",
        matrices="<results>/vision/{dataset}/method~{method}/edits~{edits}/seed~{seed}/confusion_matrices.csv",
        record="<results>/.provenance/vision/{dataset}/method~{method}/edits~{edits}/seed~{seed}.json",
    log:
        "<logs>/score_vit/methods-{dataset}-{method}-{edits}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/score_vit/{dataset}-{method}-{edits}-{seed}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=vision_resource("score_vit", "mem_mb"),
        runtime=vision_resource("score_vit", "runtime"),
        gpu=vision_resource("score_vit", "gpu"),
    params:
        recipe=lambda w: VISION.methods[w.method].model_dump(mode="json"),
        draws=lambda w: [
            c["draw"] for c in VISION.cells(w.dataset, int(w.seed), w.method)
        ],
        heldout_samples=VISION.heldout_samples,
        ambiguous_gap=VISION.ambiguous_gap,
        device=vision_device,
        code=code_digest("vision/score_vit"),
    message:
        "Score {wildcards.method} on {wildcards.dataset}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/vision/score_vit.py"
