# The report: interactive pages, the front page of Snakemake's report, the model card of the run, and the paper. Nothing
# here imports torch, and nothing is computed anew.


report: "../report/workflow.rst"


rule find_missed:
    input:
        cases=lambda w: cell_files(main_experiment(), "cases.csv"),
        requests=INPUTS + f"/data/{STUDY.dataset}/requests.json",
    output:
        OUT + "/missed_facts.csv",
    log:
        LOGS + "/find_missed.log",
    benchmark:
        OUT + "/benchmarks/rules/find_missed.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("find_missed", "mem_mb"),
        runtime=resource("find_missed", "runtime"),
    params:
        missing=lambda w: holes(cell_files(main_experiment(), "cases.csv")),
        cells=lambda w: all_cells()[main_experiment()],
        study=study_values(),
        code=code_digest("find_missed"),
    message:
        "List the facts that the methods miss"
    script:
        "../workflow_scripts/find_missed.py"


rule write_pages:
    input:
        cells=list(declared(CELL_TABLES).values()),
        curves=list(declared(CURVE_TABLES).values()),
        missed=OUT + "/missed_facts.csv",
        frame="report/pages/frame.html",
        scripts=["report/pages/table.js", "report/pages/curve.js"],
    output:
        cells=report(
            OUT + "/report/cells.html",
            caption="../report/cells.rst",
            category="Interactive",
            labels={"page": "All cells"},
        ),
        curves=report(
            OUT + "/report/forgetting.html",
            caption="../report/forgetting.rst",
            category="Interactive",
            labels={"page": "Along a stream"},
        ),
        missed=report(
            OUT + "/report/missed_facts.html",
            caption="../report/missed_facts.rst",
            category="Interactive",
            labels={"page": "Missed facts"},
        ),
        captions=[
            OUT + f"/report/{name}.rst"
            for name in ("cells", "forgetting", "missed_facts")
        ],
    log:
        LOGS + "/write_pages.log",
    benchmark:
        OUT + "/benchmarks/rules/write_pages.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("write_pages", "mem_mb"),
        runtime=resource("write_pages", "runtime"),
    params:
        cells=list(declared(CELL_TABLES)),
        curves=list(declared(CURVE_TABLES)),
        code=code_digest("write_pages"),
    message:
        "Write the interactive pages"
    script:
        "../workflow_scripts/write_pages.py"


rule write_summary:
    input:
        unpack(report_texts),
    output:
        summary=OUT + "/summary.md",
        front=OUT + "/report/front_page.rst",
    log:
        LOGS + "/write_summary.log",
    benchmark:
        OUT + "/benchmarks/rules/write_summary.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("write_summary", "mem_mb"),
        runtime=resource("write_summary", "runtime"),
    params:
        cells=lambda w: all_cells(),
        study=study_values(),
        code=code_digest("write_summary"),
    message:
        "Write the model card of the run"
    script:
        "../workflow_scripts/write_summary.py"


rule write_paper:
    input:
        unpack(report_texts),
        missed=OUT + "/missed_facts.csv",
        figures=beside(report_figures(), ".tex"),
        captions=beside(report_tables(), ".caption.tex"),
    output:
        generated=OUT + "/paper/generated.tex",
        experiments=OUT + "/paper/experiments.tex",
        recipes=OUT + "/paper/recipes.tex",
        failures=OUT + "/paper/failures.tex",
        provenance=OUT + "/paper/provenance.tex",
    log:
        LOGS + "/write_paper.log",
    benchmark:
        OUT + "/benchmarks/rules/write_paper.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("write_paper", "mem_mb"),
        runtime=resource("write_paper", "runtime"),
    params:
        cells=lambda w: all_cells(),
        study=study_values(),
        code=code_digest("write_paper"),
    message:
        "Write the generated part of the paper"
    script:
        "../workflow_scripts/write_paper.py"


rule build_paper:
    input:
        sources=[f"report/paper/{name}.tex" for name in PAPER_SOURCES]
        + ["report/paper/editlab.sty", "report/paper/editlab.bst"]
        + ["report/paper/references.bib"]
        + OFFICIAL_STYLE,
        generated=rules.write_paper.output.generated,
        own=list(rules.write_paper.output)[1:],
        figures=beside(report_figures(), ".pdf"),
        tables=beside(report_tables(), ".tex"),
    output:
        "report/final_report.pdf" if OUT == "results" else f"{OUT}/final_report.pdf",
    log:
        log=LOGS + "/build_paper.log",
        latex=LOGS + "/build_paper-latex.log",
    benchmark:
        OUT + "/benchmarks/rules/build_paper.jsonl"
    conda:
        "../envs/paper.yaml"
    threads: 1
    resources:
        mem_mb=resource("build_paper", "mem_mb"),
        runtime=resource("build_paper", "runtime"),
    params:
        pages=8,
        code=code_digest("build_paper"),
    message:
        "Typeset the paper"
    script:
        "../workflow_scripts/build_paper.py"
