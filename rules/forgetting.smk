# Forgetting over thousands of edits, and what replay is worth.


rule collect_forgetting:
    input:
        lambda w: cell_files("large_scale", "curve.csv"),
    output:
        table=OUT + "/large_scale_forgetting.csv",
        points=OUT + "/turning_points.csv",
    log:
        LOGS + "/collect_forgetting.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_forgetting.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_forgetting", "mem_mb"),
        runtime=resource("collect_forgetting", "runtime"),
    params:
        missing=lambda w: holes(cell_files("large_scale", "curve.csv")),
        cells=lambda w: finished_cells("large_scale"),
        code=code_digest("collect_forgetting"),
    message:
        "Collect the forgetting curves of long streams"
    script:
        "../workflow_scripts/collect_forgetting.py"


rule collect_replay_gain:
    input:
        lambda w: cell_files("replay_ablation", "cases.csv"),
    output:
        OUT + "/replay_gain.csv",
    log:
        LOGS + "/collect_replay_gain.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_replay_gain.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_replay_gain", "mem_mb"),
        runtime=resource("collect_replay_gain", "runtime"),
    params:
        missing=lambda w: holes(cell_files("replay_ablation", "cases.csv")),
        cells=lambda w: finished_cells("replay_ablation"),
        code=code_digest("collect_replay_gain"),
    message:
        "Compare every replay rate with none, case by case"
    script:
        "../workflow_scripts/collect_replay_gain.py"
