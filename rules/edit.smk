# The edit study: which facts are known, one cell a file target, and the tables over the cells.


rule find_known:
    input:
        model="results/models/{model}",
        requests="results/data/{dataset}/requests.json",
    output:
        "results/known/{model}/{dataset}.csv",
    log:
        "logs/find_known/{model}-{dataset}.log",
    benchmark:
        "results/benchmarks/rules/find_known/{model}-{dataset}.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("find_known", "mem_mb"),
        runtime=resource("find_known", "runtime"),
        gpu=resource("find_known", "gpu"),
    params:
        loading=lambda w: loading(w.model),
        code=code_digest("evaluation.scoring", "models"),
    message:
        "Find the facts of {wildcards.dataset} that {wildcards.model} knows"
    script:
        "../workflow_scripts/find_known.py"


rule edit_cell:
    input:
        unpack(cell_inputs),
    output:
        metrics=f"{CELL}/{CELLS.wildcard_pattern}/metrics.csv",
        cases=f"{CELL}/{CELLS.wildcard_pattern}/cases.csv",
        curve=f"{CELL}/{CELLS.wildcard_pattern}/curve.csv",
        events=f"{CELL}/{CELLS.wildcard_pattern}/events.jsonl",
        edit=f"{CELL}/{CELLS.wildcard_pattern}/edit.safetensors",
        provenance=f"{CELL}/{CELLS.wildcard_pattern}/provenance.json",
    log:
        "logs/edit_cell/{experiment}-{model}-{dataset}-{method}-{batch}-{replay}-{rank}-{seed}.log",
    benchmark:
        f"results/benchmarks/rules/edit_cell/{{experiment}}-{{model}}-{{dataset}}/{CELLS.wildcard_pattern}.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("edit_cell", "mem_mb"),
        runtime=resource("edit_cell", "runtime"),
        gpu=resource("edit_cell", "gpu"),
    params:
        cell=cell_parameters,
        code=code_digest("edit.stream", "models"),
    message:
        "Edit {wildcards.model}: {wildcards.method}, batch {wildcards.batch}, replay {wildcards.replay}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/edit_cell.py"


# The replay ablation has two more axes; everything else is the same.
use rule edit_cell as replay_cell with:
    output:
        metrics=f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/metrics.csv",
        cases=f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/cases.csv",
        curve=f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/curve.csv",
        events=f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/events.jsonl",
        edit=f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/edit.safetensors",
        provenance=f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/provenance.json",
    log:
        "logs/replay_cell/{experiment}-{model}-{dataset}-{method}-{batch}-{replay}-{capacity}-{strategy}-{rank}-{seed}.log",
    benchmark:
        f"results/benchmarks/rules/replay_cell/{{experiment}}-{{model}}-{{dataset}}/{REPLAY_CELLS.wildcard_pattern}.jsonl"


rule collect_cells:
    input:
        lambda w: cell_files(TABLES[w.table], "metrics.csv"),
    output:
        "results/{table}.csv",
    log:
        "logs/collect_cells/{table}.log",
    benchmark:
        "results/benchmarks/rules/collect_cells/{table}.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_cells", "mem_mb"),
        runtime=resource("collect_cells", "runtime"),
    params:
        cells=lambda w: cell_directories(TABLES[w.table]),
        coordinates=lambda w: STUDY.cells(TABLES[w.table]),
        model=STUDY.model,
        dataset=STUDY.dataset,
        study=STUDY.study,
        with_costs=lambda w: w.table == "baseline_comparison",
        allow_missing=STUDY.allow_missing,
        code=code_digest("analysis.tables"),
    message:
        "Collect {wildcards.table} from its cells"
    script:
        "../workflow_scripts/collect_cells.py"


rule collect_costs:
    input:
        lambda w: cell_files("edit", "provenance.json"),
    output:
        "results/costs.csv",
    log:
        "logs/collect_costs.log",
    benchmark:
        "results/benchmarks/rules/collect_costs.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_costs", "mem_mb"),
        runtime=resource("collect_costs", "runtime"),
    params:
        cells=lambda w: [directory for directory, _ in finished_cells("edit")],
        coordinates=lambda w: [cell for _, cell in finished_cells("edit")],
        code=code_digest("analysis.tables"),
    message:
        "Collect where the time of the cells went"
    script:
        "../workflow_scripts/collect_costs.py"
