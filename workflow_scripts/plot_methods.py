"""ES, PS and NS of every method by batch size."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.analysis.figures import method_comparison, save_figure

    save_figure(method_comparison(pd.read_csv(snakemake.input.matrix)), snakemake.output.pdf, snakemake.output.png)
