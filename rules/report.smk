# What the studies report: tables collected from cells, figures, printed tables, findings, pages, the front page of
# Snakemake's report, the card of the run, and the paper. The same rules for every study.


report: "../report/workflow.rst"


rule collect_table:
    input:
        unpack(table_inputs),
    output:
        "<results>/{table}.csv",
    log:
        "<logs>/collect_table/{table}.log",
    benchmark:
        "<results>/benchmarks/rules/collect_table/{table}.jsonl"
    wildcard_constraints:
        table=among(COLLECTED),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("collect_table", "mem_mb"),
        runtime=resource("collect_table", "runtime"),
    params:
        missing=lambda w: holes(
            f"{OUT}/{w.table}.csv", chain.from_iterable(table_inputs(w).values())
        ),
        study=lambda w: COLLECTED[w.table][0],
        topic=lambda w: COLLECTED[w.table][1].name,
        run=run_of_table,
        allow_missing=RUN.allow_missing,
        code=lambda w: code_of("collect_table", COLLECTED[w.table]),
    message:
        "Collect {wildcards.table} from its cells"
    script:
        "../workflow_scripts/collect_table.py"


rule draw_figure:
    input:
        unpack(figure_tables),
    output:
        pdf="<results>/figures/{figure}.pdf",
        png=report(
            "<results>/figures/{figure}.png",
            caption=CAPTION,
            category=lambda w: REPORTS[FIGURES[w.figure][0]].title,
            subcategory=lambda w: FIGURES[w.figure][1].title,
            labels=lambda w: {"result": f"Figure: {FIGURES[w.figure][2].title}"},
        ),
        rst="<results>/captions/figures/{figure}.rst",
        tex="<results>/captions/figures/{figure}.tex",
    log:
        "<logs>/draw_figure/{figure}.log",
    benchmark:
        "<results>/benchmarks/rules/draw_figure/{figure}.jsonl"
    wildcard_constraints:
        figure=among(FIGURES),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("draw_figure", "mem_mb"),
        runtime=resource("draw_figure", "runtime"),
    params:
        study=lambda w: FIGURES[w.figure][0],
        topic=lambda w: FIGURES[w.figure][1].name,
        studies=list(REPORTED),
        code=lambda w: code_of("draw_figure", FIGURES[w.figure]),
    message:
        "Draw the figure {wildcards.figure}"
    script:
        "../workflow_scripts/draw_figure.py"


rule make_table:
    input:
        unpack(
            lambda w: files_of(SHEETS[w.sheet][2].tables + SHEETS[w.sheet][2].optional)
        ),
    output:
        csv=report(
            "<results>/tables/{sheet}.csv",
            caption=CAPTION,
            category=lambda w: REPORTS[SHEETS[w.sheet][0]].title,
            subcategory=lambda w: SHEETS[w.sheet][1].title,
            labels=lambda w: {"result": f"Table: {SHEETS[w.sheet][2].title}"},
        ),
        tex="<results>/tables/{sheet}.tex",
        rst="<results>/captions/tables/{sheet}.rst",
        caption="<results>/captions/tables/{sheet}.tex",
    log:
        "<logs>/make_table/{sheet}.log",
    benchmark:
        "<results>/benchmarks/rules/make_table/{sheet}.jsonl"
    wildcard_constraints:
        sheet=among(SHEETS),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_table", "mem_mb"),
        runtime=resource("make_table", "runtime"),
    params:
        study=lambda w: SHEETS[w.sheet][0],
        topic=lambda w: SHEETS[w.sheet][1].name,
        code=lambda w: code_of("make_table", SHEETS[w.sheet]),
    message:
        "Print the table {wildcards.sheet}"
    script:
        "../workflow_scripts/make_table.py"


rule make_findings:
    input:
        **finding_tables(),
    output:
        "<results>/findings.json",
    log:
        "<logs>/make_findings.log",
    benchmark:
        "<results>/benchmarks/rules/make_findings.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_findings", "mem_mb"),
        runtime=resource("make_findings", "runtime"),
    params:
        studies=list(REPORTED),
        code=code_digest(
            "make_findings",
            *(
                found.module(name)
                for found in REPORTS.values()
                for name in found.names
            ),
        ),
    message:
        "Write down what was found"
    script:
        "../workflow_scripts/make_findings.py"


rule write_page:
    input:
        unpack(lambda w: files_of(PAGES[w.page][1].tables)),
        sources=[
            f"report/pages/{n}"
            for n in ("frame.html", "table.js", "curve.js", "curve.json")
        ],
    output:
        page=report(
            "<results>/report/{page}.html",
            caption=CAPTION,
            category=lambda w: REPORTS[PAGES[w.page][0]].title,
            subcategory="Interactive",
            labels=lambda w: {"result": PAGES[w.page][1].title},
        ),
        rst="<results>/captions/pages/{page}.rst",
    log:
        "<logs>/write_page/{page}.log",
    benchmark:
        "<results>/benchmarks/rules/write_page/{page}.jsonl"
    wildcard_constraints:
        page=among(PAGES),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("write_page", "mem_mb"),
        runtime=resource("write_page", "runtime"),
    params:
        study=lambda w: PAGES[w.page][0],
        code=lambda w: code_digest(
            "write_page", REPORTS[PAGES[w.page][0]].module("pages")
        ),
    message:
        "Write the interactive page {wildcards.page}"
    script:
        "../workflow_scripts/write_page.py"


rule write_summary:
    input:
        unpack(report_texts),
    output:
        summary="<results>/summary.md",
        front="<results>/report/front_page.rst",
    log:
        "<logs>/write_summary.log",
    benchmark:
        "<results>/benchmarks/rules/write_summary.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("write_summary", "mem_mb"),
        runtime=resource("write_summary", "runtime"),
    params:
        runs=lambda w: {study: run_of(study) for study in REPORTED},
        tables={study: told_tables(study) for study in REPORTED},
        code=code_digest("write_summary", *text_modules()),
    message:
        "Write the card of the run"
    script:
        "../workflow_scripts/write_summary.py"


rule write_paper:
    input:
        unpack(report_texts),
        figures=captions_of(report_figures(), ".tex"),
        captions=captions_of(report_sheets(), ".tex"),
        collected=report_tables(),
    output:
        generated="<results>/paper/generated.tex",
        tables=directory("<results>/paper/tables"),
    log:
        "<logs>/write_paper.log",
    benchmark:
        "<results>/benchmarks/rules/write_paper.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("write_paper", "mem_mb"),
        runtime=resource("write_paper", "runtime"),
    params:
        runs=lambda w: {study: run_of(study) for study in REPORTED},
        tables={study: told_tables(study) for study in REPORTED},
        code=code_digest("write_paper", *text_modules()),
    message:
        "Write the generated part of the paper"
    script:
        "../workflow_scripts/write_paper.py"


rule build_paper:
    input:
        sources=sorted(
            str(f) for f in Path("report/paper").iterdir() if f.suffix != ".pdf"
        ),
        sections=[f"report/sections/{study}.tex" for study in REPORTED],
        generated=rules.write_paper.output.generated,
        own=rules.write_paper.output.tables,
        figures=[str(Path(f).with_suffix(".pdf")) for f in report_figures()],
        tables=[str(Path(f).with_suffix(".tex")) for f in report_sheets()],
    output:
        "<results>/final_report.pdf",
        DEFAULT_PAPER,
    log:
        log="<logs>/build_paper.log",
        latex="<logs>/build_paper-latex.log",
    benchmark:
        "<results>/benchmarks/rules/build_paper.jsonl"
    conda:
        "../envs/paper.yaml"
    threads: 1
    resources:
        mem_mb=resource("build_paper", "mem_mb"),
        runtime=resource("build_paper", "runtime"),
    params:
        pages=8 * len(REPORTED),
        studies=list(REPORTED),
        code=code_digest("build_paper", *text_modules()),
    message:
        "Typeset the paper"
    script:
        "../workflow_scripts/build_paper.py"
