# Figures, each from one table of its own; none of them imports torch.


rule draw_figure:
    input:
        table=lambda w: placed(FIGURES[w.figure].sources["table"]),
    output:
        pdf=OUT + "/figures/{figure}.pdf",
        png=report(
            OUT + "/figures/{figure}.png",
            caption=REPORT_CAPTION,
            category=REPORT_CATEGORY,
            subcategory=lambda w: FIGURES[w.figure].topic,
            labels=lambda w: {"result": f"Figure: {FIGURES[w.figure].title}"},
        ),
        rst=OUT + "/figures/{figure}.rst",
        tex=OUT + "/figures/{figure}.tex",
    log:
        LOGS + "/draw_figure/{figure}.log",
    benchmark:
        OUT + "/benchmarks/rules/draw_figure/{figure}.jsonl"
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
        code=lambda w: code_digest(
            "draw_figure", f"editlab.analysis.{FIGURES[w.figure].module}"
        ),
    message:
        "Draw the figure {wildcards.figure}"
    script:
        "../workflow_scripts/draw_figure.py"


use rule draw_figure as draw_layers with:
    input:
        table=INPUTS + "/layers/{model}/{dataset}/indirect_effects.csv",
    output:
        pdf=OUT + "/figures/layer_importance-{model}-{dataset}.pdf",
        png=report(
            OUT + "/figures/layer_importance-{model}-{dataset}.png",
            caption=REPORT_CAPTION,
            category=REPORT_CATEGORY,
            subcategory=FIGURES["layer_importance"].topic,
            labels={"result": f"Figure: {FIGURES['layer_importance'].title}"},
        ),
        rst=OUT + "/figures/layer_importance-{model}-{dataset}.rst",
        tex=OUT + "/figures/layer_importance-{model}-{dataset}.tex",
    log:
        LOGS + "/draw_layers/{model}-{dataset}.log",
    benchmark:
        OUT + "/benchmarks/rules/draw_layers/{model}-{dataset}.jsonl"
    wildcard_constraints:
        model="[^/]+",
    params:
        figure="layer_importance",
        code=code_digest("draw_figure", "editlab.analysis.figures.layers"),
    message:
        "Draw the layer heat map of {wildcards.model}"
