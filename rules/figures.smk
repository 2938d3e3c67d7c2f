# Figures, each from one table; none of them imports torch.


rule plot_methods:
    input:
        matrix="results/ablation_matrix.csv",
    output:
        pdf="results/figures/method_comparison.pdf",
        png="results/figures/method_comparison.png",
    log:
        "logs/plot_methods.log",
    benchmark:
        "results/benchmarks/rules/plot_methods.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("plot_methods", "mem_mb"),
        runtime=resource("plot_methods", "runtime"),
    params:
        code=code_digest("analysis.figures"),
    message:
        "Draw the comparison of methods"
    script:
        "../workflow_scripts/plot_methods.py"
