from snakemake.utils import min_version

min_version("9.10")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/startup.smk"
include: "rules/cluster.smk"


for file in rule_files():

    include: file


if RUN.edit is not None:

    include: "rules/report_files.smk"
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
        [files() for files in TARGETS],
    message:
        "All results of the run {RUN.run}"


rule matrix:
    input:
        OUT + "/ablation_matrix.csv",
    message:
        "The ablation matrix"
