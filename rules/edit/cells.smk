# The edit study: which facts are known, one cell a file target, and the tables over the cells.

CELL_LOG = f"{LOGS}/edit_cell/{{experiment}}-{{model}}-{{dataset}}-{{method}}-{{batch}}-{{replay}}-{{rank}}-{{seed}}.log"
REPLAY_LOG = f"{LOGS}/replay_cell/{{experiment}}-{{model}}-{{dataset}}-{{method}}-{{batch}}-{{replay}}-{{capacity}}-{{strategy}}-{{rank}}-{{seed}}.log"
CELL_RESULT = f"{CELL}/{CELLS.wildcard_pattern}/metrics.csv"
REPLAY_RESULT = f"{CELL}/{REPLAY_CELLS.wildcard_pattern}/metrics.csv"


rule find_known:
    input:
        model="<inputs>/models/{model}",
        requests="<inputs>/data/{dataset}/requests.json",
    output:
        "<inputs>/known/{model}/{dataset}.csv",
    log:
        "<logs>/find_known/{model}-{dataset}.log",
    benchmark:
        "<inputs>/benchmarks/rules/find_known/{model}-{dataset}.jsonl"
    group:
        small_jobs("find_known", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("find_known", "mem_mb", STUDY),
        runtime=model_resource("find_known", "runtime", STUDY),
        gpu=model_resource("find_known", "gpu", STUDY),
    params:
        loading=lambda w: loading(w.model),
        code=code_digest("edit/find_known"),
    message:
        "Find the facts of {wildcards.dataset} that {wildcards.model} knows"
    script:
        "../../workflow_scripts/edit/find_known.py"


rule edit_cell:
    input:
        unpack(cell_inputs),
        unpack(matched_inputs),
        unpack(guard_inputs),
    output:
        metrics=CELL_RESULT,
        cases=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}/cases.csv",
        curve=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}/curve.csv",
        events=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}/events.jsonl",
        edit=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}/edit.safetensors",
        provenance=f"<results>/.provenance/edit/{{experiment}}/{{model}}/{{dataset}}/{CELLS.wildcard_pattern}.json",
    log:
        CELL_LOG,
    benchmark:
        f"<results>/benchmarks/rules/edit_cell/{{experiment}}-{{model}}-{{dataset}}/{CELLS.wildcard_pattern}.jsonl"
    group:
        small_jobs("edit_cell", "cells", STUDY, CELL_LOG, CELL_RESULT)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("edit_cell", "mem_mb", STUDY),
        runtime=model_resource("edit_cell", "runtime", STUDY, LONGEST),
        gpu=model_resource("edit_cell", "gpu", STUDY),
    params:
        cell=cell_parameters,
        code=code_digest("edit/edit_cell"),
    message:
        "Edit {wildcards.model}: {wildcards.method}, batch {wildcards.batch}, replay {wildcards.replay}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/edit/edit_cell.py"


# The replay ablation has two more axes; everything else is the same.
use rule edit_cell as replay_cell with:
    output:
        metrics=REPLAY_RESULT,
        cases=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{REPLAY_CELLS.wildcard_pattern}/cases.csv",
        curve=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{REPLAY_CELLS.wildcard_pattern}/curve.csv",
        events=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{REPLAY_CELLS.wildcard_pattern}/events.jsonl",
        edit=f"<results>/edit/{{experiment}}/{{model}}/{{dataset}}/{REPLAY_CELLS.wildcard_pattern}/edit.safetensors",
        provenance=f"<results>/.provenance/edit/{{experiment}}/{{model}}/{{dataset}}/{REPLAY_CELLS.wildcard_pattern}.json",
    log:
        REPLAY_LOG,
    benchmark:
        f"<results>/benchmarks/rules/replay_cell/{{experiment}}-{{model}}-{{dataset}}/{REPLAY_CELLS.wildcard_pattern}.jsonl"
    group:
        small_jobs("edit_cell", "cells", STUDY, REPLAY_LOG, REPLAY_RESULT)


rule matrix:
    input:
        "<results>/ablation_matrix.csv",
    message:
        "The ablation matrix"
