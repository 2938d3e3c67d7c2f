# Curvature of the loss at the edited maps, for recipes that stay off its steep directions: beside the second moments.


rule collect_curvature:
    input:
        unpack(text_inputs),
    output:
        expand(
            "<inputs>/statistics/{{model}}/curvature-{layer}.safetensors",
            layer=CURVED_LAYERS or ["none"],
        ),
    log:
        "<logs>/collect_curvature/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/collect_curvature/{model}.jsonl"
    group:
        small_jobs("collect_curvature", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("collect_curvature", "mem_mb", STUDY),
        runtime=model_resource("collect_curvature", "runtime", STUDY),
        gpu=model_resource("collect_curvature", "gpu", STUDY),
    params:
        layers=CURVED_LAYERS,
        partial=f"{INPUTS}/statistics/{{model}}/partial-curvature.safetensors",
        statistics=STUDY.statistics.model_dump(),
        neutral=lambda w: neutral_sentences(w.model),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/collect_curvature"),
    message:
        "Collect the curvature of {wildcards.model}"
    script:
        "../../workflow_scripts/edit/collect_curvature.py"


# Layers that only the trace names are not known when the first pass is planned: one pass each.
use rule collect_curvature as collect_traced_curvature with:
    output:
        "<results>/statistics/{model}/curvature-{layer}.safetensors",
    log:
        "<logs>/collect_traced_curvature/{model}-{layer}.log",
    benchmark:
        "<results>/benchmarks/rules/collect_traced_curvature/{model}-{layer}.jsonl"
    group:
        small_jobs("collect_curvature", "traced", STUDY)
    params:
        layers=lambda w: [int(w.layer)],
        partial=f"{OUT}/statistics/{{model}}/partial-curvature-{{layer}}.safetensors",
        statistics=STUDY.statistics.model_dump(),
        neutral=lambda w: neutral_sentences(w.model),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/collect_curvature"),


ruleorder: collect_curvature > collect_traced_curvature
