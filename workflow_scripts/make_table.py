"""One printed table: numbers as CSV, LaTeX, and its caption."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.analysis.registry import SHEETS, function
    from editlab.analysis.sheets.base import write_sheet

    name = snakemake.wildcards.sheet
    tables = {key: pd.read_csv(path) for key, path in snakemake.input.items()}
    write_sheet(function(SHEETS[name], name)(tables), dict(snakemake.output.items()))
