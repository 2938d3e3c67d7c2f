# Tables that figures, printed tables and sentences stand on, and the printed tables and sentences themselves.


rule collect_curves:
    input:
        lambda w: cell_files("edit", "curve.csv"),
    output:
        "results/curves.csv",
    log:
        "logs/collect_curves.log",
    benchmark:
        "results/benchmarks/rules/collect_curves.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_curves", "mem_mb"),
        runtime=resource("collect_curves", "runtime"),
    params:
        cells=lambda w: finished_cells("edit"),
        code=code_digest("analysis.guarded"),
    message:
        "Collect the curves of the matrix's cells"
    script:
        "../workflow_scripts/collect_curves.py"


rule compare_cells:
    input:
        lambda w: cell_files("edit", "cases.csv"),
    output:
        "results/comparisons.csv",
    log:
        "logs/compare_cells.log",
    benchmark:
        "results/benchmarks/rules/compare_cells.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("compare_cells", "mem_mb"),
        runtime=resource("compare_cells", "runtime"),
    params:
        cells=lambda w: finished_cells("edit"),
        code=code_digest("analysis.comparisons"),
    message:
        "Compare the cells of the matrix case by case"
    script:
        "../workflow_scripts/compare_cells.py"


rule measure_speed:
    input:
        model=f"results/models/{STUDY.model}",
        requests=f"results/data/{STUDY.dataset}/requests.json",
    output:
        SPEED,
    log:
        "logs/measure_speed.log",
    benchmark:
        "results/benchmarks/rules/measure_speed.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: workflow.cores or 1  # nothing else runs meanwhile
    resources:
        mem_mb=resource("measure_speed", "mem_mb"),
        runtime=resource("measure_speed", "runtime"),
    params:
        code=code_digest("editing.targets", "networks.loading"),
    message:
        "Time batched targets against one by one"
    script:
        "../workflow_scripts/measure_speed.py"


rule collect_speed:
    input:
        BENCHMARKS,
    output:
        "results/speed.csv",
    log:
        "logs/collect_speed.log",
    benchmark:
        "results/benchmarks/rules/collect_speed.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_speed", "mem_mb"),
        runtime=resource("collect_speed", "runtime"),
    params:
        code=code_digest("analysis.speed"),
    message:
        "Collect what make bench measured"
    script:
        "../workflow_scripts/collect_speed.py"


rule make_table:
    input:
        unpack(lambda w: dict(SHEETS[w.sheet].sources)),
    output:
        csv=report(
            "results/tables/{sheet}.csv",
            caption=REPORT_CAPTION,
            category=REPORT_CATEGORY,
            subcategory=lambda w: SHEETS[w.sheet].topic,
            labels=lambda w: {"result": f"Table: {SHEETS[w.sheet].title}"},
        ),
        tex="results/tables/{sheet}.tex",
        rst="results/tables/{sheet}.rst",
        caption="results/tables/{sheet}.caption.tex",
    log:
        "logs/make_table/{sheet}.log",
    benchmark:
        "results/benchmarks/rules/make_table/{sheet}.jsonl"
    wildcard_constraints:
        sheet="|".join(SHEETS),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_table", "mem_mb"),
        runtime=resource("make_table", "runtime"),
    params:
        code=lambda w: code_digest(f"analysis.{SHEETS[w.sheet].module}"),
    message:
        "Print the table {wildcards.sheet}"
    script:
        "../workflow_scripts/make_table.py"


rule make_findings:
    input:
        **sentence_sources(),
    output:
        "results/findings.json",
    log:
        "logs/make_findings.log",
    benchmark:
        "results/benchmarks/rules/make_findings.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_findings", "mem_mb"),
        runtime=resource("make_findings", "runtime"),
    params:
        code=code_digest("analysis.findings"),
    message:
        "Write down what was found"
    script:
        "../workflow_scripts/make_findings.py"
