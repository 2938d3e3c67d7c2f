from snakemake.utils import min_version

min_version("9.10")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/statistics.smk"
include: "rules/edit.smk"


rule all:
    default_target: True
    message:
        "All results of study {STUDY.study}"
    input:
        all_targets(),


rule matrix:
    message:
        "The ablation matrix"
    input:
        "results/ablation_matrix.csv",
