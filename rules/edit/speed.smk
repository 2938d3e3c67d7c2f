# How fast targets are on this machine, for the report.

SPEED = OUT + "/benchmarks/targets.json"


rule measure_speed:
    input:
        model=f"{INPUTS}/models/{STUDY.model}",
        requests=f"{INPUTS}/data/{STUDY.dataset}/requests.json",
    output:
        SPEED,
    log:
        LOGS + "/measure_speed.log",
    benchmark:
        OUT + "/benchmarks/rules/measure_speed.jsonl"
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
