from snakemake.utils import min_version

min_version("9.19")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/startup.smk"
include: "rules/cluster.smk"


for file in rule_files():

    include: file


include: "rules/reported.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        [files() for files in TARGETS],
    message:
        "All results of the run {RUN.run}"
