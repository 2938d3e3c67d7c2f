from snakemake.utils import min_version

min_version("9.10")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/cluster.smk"
include: "rules/report_files.smk"
include: "rules/guard.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/statistics.smk"
include: "rules/edit.smk"
include: "rules/sweep.smk"
include: "rules/lora.smk"
include: "rules/trust.smk"
include: "rules/greedy.smk"
include: "rules/forgetting.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        all_targets(),
        report_files(),
    message:
        "All results of the run {RUN.run}"


rule matrix:
    input:
        "results/ablation_matrix.csv",
    message:
        "The ablation matrix"
