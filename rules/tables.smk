# Tables that figures, printed tables and sentences stand on, and the printed tables and sentences themselves.


rule collect_curves:
    input:
        lambda w: cell_files("edit", "curve.csv"),
    output:
        OUT + "/curves.csv",
    log:
        LOGS + "/collect_curves.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_curves.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_curves", "mem_mb"),
        runtime=resource("collect_curves", "runtime"),
    params:
        missing=lambda w: holes(cell_files("edit", "curve.csv")),
        cells=lambda w: finished_cells("edit"),
        code=code_digest("collect_curves"),
    message:
        "Collect the curves of the matrix's cells"
    script:
        "../workflow_scripts/collect_curves.py"


rule compare_cells:
    input:
        lambda w: cell_files("edit", "cases.csv"),
    output:
        OUT + "/comparisons.csv",
    log:
        LOGS + "/compare_cells.log",
    benchmark:
        OUT + "/benchmarks/rules/compare_cells.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("compare_cells", "mem_mb"),
        runtime=resource("compare_cells", "runtime"),
    params:
        missing=lambda w: holes(cell_files("edit", "cases.csv")),
        cells=lambda w: finished_cells("edit"),
        code=code_digest("compare_cells"),
    message:
        "Compare the cells of the matrix case by case"
    script:
        "../workflow_scripts/compare_cells.py"


rule collect_speed:
    input:
        BENCHMARKS,
    output:
        OUT + "/speed.csv",
    log:
        LOGS + "/collect_speed.log",
    benchmark:
        OUT + "/benchmarks/rules/collect_speed.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_speed", "mem_mb"),
        runtime=resource("collect_speed", "runtime"),
    params:
        code=code_digest("collect_speed"),
    message:
        "Collect what make bench measured"
    script:
        "../workflow_scripts/collect_speed.py"


rule make_table:
    input:
        unpack(
            lambda w: {
                name: placed(path) for name, path in SHEETS[w.sheet].sources.items()
            }
        ),
    output:
        csv=report(
            OUT + "/tables/{sheet}.csv",
            caption=REPORT_CAPTION,
            category=REPORT_CATEGORY,
            subcategory=lambda w: SHEETS[w.sheet].topic,
            labels=lambda w: {"result": f"Table: {SHEETS[w.sheet].title}"},
        ),
        tex=OUT + "/tables/{sheet}.tex",
        rst=OUT + "/tables/{sheet}.rst",
        caption=OUT + "/tables/{sheet}.caption.tex",
    log:
        LOGS + "/make_table/{sheet}.log",
    benchmark:
        OUT + "/benchmarks/rules/make_table/{sheet}.jsonl"
    wildcard_constraints:
        sheet="|".join(SHEETS),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_table", "mem_mb"),
        runtime=resource("make_table", "runtime"),
    params:
        code=lambda w: code_digest(
            "make_table", f"editlab.analysis.{SHEETS[w.sheet].module}"
        ),
    message:
        "Print the table {wildcards.sheet}"
    script:
        "../workflow_scripts/make_table.py"


rule make_findings:
    input:
        **sentence_sources(),
    output:
        OUT + "/findings.json",
    log:
        LOGS + "/make_findings.log",
    benchmark:
        OUT + "/benchmarks/rules/make_findings.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_findings", "mem_mb"),
        runtime=resource("make_findings", "runtime"),
    params:
        code=code_digest("make_findings"),
    message:
        "Write down what was found"
    script:
        "../workflow_scripts/make_findings.py"
