# Weights and thresholds of the guards, chosen on streams of other seeds than those that they are judged on.


rule choose_guards:
    input:
        events=lambda w: [f"{path}/events.jsonl" for path in cell_paths(w.watched)],
    output:
        "<results>/guards/{watched}/{model}/{dataset}.json",
    log:
        "<logs>/choose_guards/{watched}-{model}-{dataset}.log",
    benchmark:
        "<results>/benchmarks/rules/choose_guards/{watched}-{model}-{dataset}.jsonl"
    wildcard_constraints:
        watched="[a-z_]+",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("choose_guards", "mem_mb"),
        runtime=resource("choose_guards", "runtime"),
    params:
        options=lambda w: STUDY.methods[
            STUDY.experiments[w.watched].methods[0]
        ].trust.model_dump(mode="json"),
        code=code_digest("edit/choose_guards"),
    message:
        "Choose the guards on the streams of {wildcards.watched}"
    script:
        "../../workflow_scripts/edit/choose_guards.py"
