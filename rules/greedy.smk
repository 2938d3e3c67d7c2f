# Greedy low-rank steps against the one-step edit.


rule collect_greedy:
    input:
        lambda w: cell_files("greedy_eval", "metrics.csv"),
    output:
        table="results/greedy_eval.csv",
        steps="results/greedy_steps.csv",
        gain="results/greedy_gain.csv",
    log:
        "logs/collect_greedy.log",
    benchmark:
        "results/benchmarks/rules/collect_greedy.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_greedy", "mem_mb"),
        runtime=resource("collect_greedy", "runtime"),
    params:
        cells=lambda w: list(
            zip(cell_directories("greedy_eval"), STUDY.cells("greedy_eval"))
        ),
        base="emmet_lora",
        code=code_digest("analysis.guarded"),
    message:
        "Compare greedy steps with the one-step LoRA edit"
    script:
        "../workflow_scripts/collect_greedy.py"
