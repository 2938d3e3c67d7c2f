"""What was found, in sentences that the numbers write."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.analysis.findings import findings
    from editlab.files.artifacts import write_json

    write_json(snakemake.output[0], findings({key: pd.read_csv(path) for key, path in snakemake.input.items()}))
