"""The layers whose MLP outputs at the subject's end have the largest average indirect effect."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.editing.tracing import choose_layers
    from editlab.files.artifacts import write_json

    effects = pd.read_csv(snakemake.input.effects)
    write_json(snakemake.output.layers, {"layers": choose_layers(effects, snakemake.params.top)})
