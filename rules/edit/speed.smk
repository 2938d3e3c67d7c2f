# How fast targets are on this machine, for the report.

SPEED = f"{OUT}/benchmarks/targets.json"


rule measure_speed:
    input:
        model=f"<inputs>/models/{STUDY.model}",
        requests=f"<inputs>/data/{STUDY.dataset}/requests.json",
    output:
        SPEED,
    log:
        "<logs>/measure_speed.log",
    benchmark:
        "<results>/benchmarks/rules/measure_speed.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: workflow.cores or 1  # nothing else runs meanwhile
    resources:
        mem_mb=resource("measure_speed", "mem_mb"),
        runtime=resource("measure_speed", "runtime"),
    params:
        code=code_digest("edit/measure_speed", "benchmarks.targets"),
    message:
        "Time batched targets against one by one"
    script:
        "../../workflow_scripts/edit/measure_speed.py"
