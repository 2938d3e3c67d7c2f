"""The heat map of the causal trace."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.analysis.figures import layer_importance, save_figure

    save_figure(layer_importance(pd.read_csv(snakemake.input.effects)), snakemake.output.pdf, snakemake.output.png)
