# Second moments of the keys: all configured layers in one pass over the text.


rule collect_statistics:
    input:
        unpack(statistics_inputs),
    output:
        expand(
            "<inputs>/statistics/{{model}}/layer-{layer}.safetensors",
            layer=CONFIGURED_LAYERS or ["none"],
        ),
    log:
        "<logs>/collect_statistics/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/collect_statistics/{model}.jsonl"
    group:
        small_jobs("collect_statistics", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("collect_statistics", "mem_mb", STUDY),
        runtime=model_resource("collect_statistics", "runtime", STUDY),
        gpu=model_resource("collect_statistics", "gpu", STUDY),
    params:
        layers=CONFIGURED_LAYERS,
        partial=f"{INPUTS}/statistics/{{model}}/partial.safetensors",
        statistics=STUDY.statistics.model_dump(),
        neutral=lambda w: neutral_sentences(w.model),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/collect_statistics"),
    message:
        "Collect second moments of {wildcards.model}"
    script:
        "../../workflow_scripts/edit/collect_statistics.py"


# Layers that only the trace names are not known when the first pass is planned: one pass each.
use rule collect_statistics as collect_traced_statistics with:
    output:
        "<results>/statistics/{model}/layer-{layer}.safetensors",
    log:
        "<logs>/collect_traced_statistics/{model}-{layer}.log",
    benchmark:
        "<results>/benchmarks/rules/collect_traced_statistics/{model}-{layer}.jsonl"
    # They come after the trace, which needs what the group "prepare" makes.
    group:
        small_jobs("collect_statistics", "traced", STUDY)
    params:
        layers=lambda w: [int(w.layer)],
        partial=f"{OUT}/statistics/{{model}}/partial-{{layer}}.safetensors",
        statistics=STUDY.statistics.model_dump(),
        neutral=lambda w: neutral_sentences(w.model),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/collect_statistics"),


ruleorder: collect_statistics > collect_traced_statistics
