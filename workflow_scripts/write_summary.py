"""The model card of the run, and the front page of the report."""

from common import job

with job(snakemake):
    import json
    from pathlib import Path

    import pandas as pd

    from editlab.analysis.front import front_page
    from editlab.analysis.run import Run
    from editlab.analysis.summary import model_card
    from editlab.data import load_requests
    from editlab.files.artifacts import write_text

    run = Run(snakemake.params.study, snakemake.params.cells)
    requests = load_requests(snakemake.input.requests)
    found = snakemake.input.get("findings", [])
    findings = [finding for path in found for finding in json.loads(Path(path).read_text(encoding="utf-8"))]
    headline = next((f for f in snakemake.input.get("tables", []) if f.endswith("/methods.csv")), None)
    methods = pd.read_csv(headline) if headline else None
    write_text(snakemake.output.summary, model_card(run, requests, findings))
    write_text(snakemake.output.front, front_page(run, requests, methods, findings))
