# Greedy low-rank steps against the one-step edit.


rule collect_greedy:
    input:
        lambda w: [
            f for e in greedy_experiments() for f in cell_files(e, "metrics.csv")
        ],
    output:
        table=OUT + "/greedy_eval.csv",
        steps=OUT + "/greedy_steps.csv",
        gain=OUT + "/greedy_gain.csv",
        events=OUT + "/greedy_step_events.csv",
    log:
        LOGS + "/collect_greedy.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_greedy.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_greedy", "mem_mb"),
        runtime=resource("collect_greedy", "runtime"),
    params:
        missing=lambda w: holes(
            [f for e in greedy_experiments() for f in cell_files(e, "metrics.csv")]
        ),
        cells=lambda w: [c for e in greedy_experiments() for c in finished_cells(e)],
        bases=["emmet_lora", "emmet_lora_append", "emmet"],
        code=code_digest("collect_greedy"),
    message:
        "Compare greedy steps with the one-step LoRA edit"
    script:
        "../workflow_scripts/collect_greedy.py"
