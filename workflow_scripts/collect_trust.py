"""Trust: rates and worth of its decisions with and without harmful batches, ROC and precision-recall, the curves."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.analysis.guarded import forgetting_table, trust_curves, trust_decisions, trust_table
    from editlab.files.artifacts import write_csv

    by_experiment = snakemake.params.cells
    tables, curves, forgetting, decisions = [], [], [], []
    for experiment, cells in by_experiment.items():
        table = trust_table(cells, "emmet", "none", snakemake.params.thresholds)
        tables.append(table.assign(experiment=experiment))
        curves.append(trust_curves(cells).assign(experiment=experiment))
        forgetting.append(forgetting_table(cells).assign(experiment=experiment))
        decisions.append(trust_decisions(cells).assign(experiment=experiment))
    write_csv(snakemake.output.table, pd.concat(tables, ignore_index=True))
    write_csv(snakemake.output.curves, pd.concat(curves, ignore_index=True))
    write_csv(snakemake.output.forgetting, pd.concat(forgetting, ignore_index=True))
    write_csv(snakemake.output.decisions, pd.concat(decisions, ignore_index=True))
