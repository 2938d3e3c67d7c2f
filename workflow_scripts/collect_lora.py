"""LoRA ablation: scores, retention, size and seconds of every cell, and paired differences between the forms."""

from common import job

with job(snakemake):
    from editlab.analysis.guarded import compare, lora_table
    from editlab.files.artifacts import write_csv

    cells = snakemake.params.cells
    write_csv(snakemake.output.table, lora_table(cells))
    write_csv(snakemake.output.gain, compare(cells, snakemake.params.pairs))
