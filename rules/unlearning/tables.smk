# The tables of the unlearning study.


rule collect_unlearning:
    input:
        runs=UNLEARNING_RUNS,
        attacks=UNLEARNING_ATTACKS,
        chosen=UNLEARNING_CHOSEN,
        kept=UNLEARNING_POINTS,
    output:
        unlearn=OUT + "/unlearn.csv",
        rtt=OUT + "/rtt.csv",
        summary=OUT + "/summary.csv",
    log:
        LOGS + "/collect_unlearning.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_unlearning.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_unlearning", "mem_mb"),
        runtime=resource("collect_unlearning", "runtime"),
    params:
        missing=lambda w: holes([*UNLEARNING_RUNS, *UNLEARNING_ATTACKS]),
        settings=UNLEARNING.model_dump(mode="json"),
        code=code_digest("unlearning/collect_unlearning"),
    message:
        "Collect runs, attacks and chosen points"
    script:
        "../../workflow_scripts/unlearning/collect_unlearning.py"


TARGETS.append(lambda: [f"{OUT}/{name}.csv" for name in ("unlearn", "rtt", "summary")])
