# Figures, each from one table of its own; none of them imports torch.


rule draw_figure:
    input:
        table=lambda w: FIGURES[w.figure].sources["table"],
    output:
        pdf="results/figures/{figure}.pdf",
        png=report(
            "results/figures/{figure}.png",
            caption=REPORT_CAPTION,
            category=REPORT_CATEGORY,
            subcategory=lambda w: FIGURES[w.figure].topic,
            labels=lambda w: {"result": f"Figure: {FIGURES[w.figure].title}"},
        ),
        rst="results/figures/{figure}.rst",
        tex="results/figures/{figure}.tex",
    log:
        "logs/draw_figure/{figure}.log",
    benchmark:
        "results/benchmarks/rules/draw_figure/{figure}.jsonl"
    wildcard_constraints:
        figure="|".join(DRAWN),
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("draw_figure", "mem_mb"),
        runtime=resource("draw_figure", "runtime"),
    params:
        figure=lambda w: w.figure,
        code=lambda w: code_digest(f"analysis.{FIGURES[w.figure].module}"),
    message:
        "Draw the figure {wildcards.figure}"
    script:
        "../workflow_scripts/draw_figure.py"


use rule draw_figure as draw_layers with:
    input:
        table="results/layers/{model}/{dataset}/indirect_effects.csv",
    output:
        pdf="results/figures/layer_importance-{model}-{dataset}.pdf",
        png=report(
            "results/figures/layer_importance-{model}-{dataset}.png",
            caption=REPORT_CAPTION,
            category=REPORT_CATEGORY,
            subcategory=FIGURES["layer_importance"].topic,
            labels={"result": f"Figure: {FIGURES['layer_importance'].title}"},
        ),
        rst="results/figures/layer_importance-{model}-{dataset}.rst",
        tex="results/figures/layer_importance-{model}-{dataset}.tex",
    log:
        "logs/draw_layers/{model}-{dataset}.log",
    benchmark:
        "results/benchmarks/rules/draw_layers/{model}-{dataset}.jsonl"
    wildcard_constraints:
        model="[^/]+",
    params:
        figure="layer_importance",
        code=code_digest("analysis.figures.layers"),
    message:
        "Draw the layer heat map of {wildcards.model}"
