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
        table="results/trust_eval.csv",
        curves="results/trust_curves.csv",
        forgetting="results/trust_forgetting.csv",
        decisions="results/trust_decisions.csv",
    log:
        "logs/collect_trust.log",
    benchmark:
        "results/benchmarks/rules/collect_trust.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_trust", "mem_mb"),
        runtime=resource("collect_trust", "runtime"),
    params:
        cells=lambda w: {e: finished_cells(e) for e in trust_experiments()},
        thresholds=[0.2, 0.3, 0.4, 0.5, 0.6],
        code=code_digest("analysis.guarded"),
    message:
        "Hold the decisions of trust against their labels"
    script:
        "../workflow_scripts/collect_trust.py"
