# Trust: decisions against labels, on streams with harmful batches and without.


rule collect_trust:
    input:
        lambda w: [
            f
            for e in trust_experiments()
            for name in ("metrics.csv", "events.jsonl")
            for f in cell_files(e, name)
        ],
    output:
        table=OUT + "/trust_eval.csv",
        curves=OUT + "/trust_curves.csv",
        forgetting=OUT + "/trust_forgetting.csv",
        decisions=OUT + "/trust_decisions.csv",
    log:
        LOGS + "/collect_trust.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_trust.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_trust", "mem_mb"),
        runtime=resource("collect_trust", "runtime"),
    params:
        missing=lambda w: holes(
            [
                f
                for e in trust_experiments()
                for name in ("metrics.csv", "events.jsonl")
                for f in cell_files(e, name)
            ]
        ),
        cells=lambda w: {e: finished_cells(e) for e in trust_experiments()},
        thresholds=[0.2, 0.3, 0.4, 0.5, 0.6],
        code=code_digest("collect_trust"),
    message:
        "Hold the decisions of trust against their labels"
    script:
        "../workflow_scripts/collect_trust.py"
