"""The generated part of the paper: values, findings, captions and its own small tables."""

from common import job

with job(snakemake):
    import json
    from pathlib import Path

    import pandas as pd

    from editlab.analysis import paper, paper_tables
    from editlab.analysis.run import Run
    from editlab.data import load_requests
    from editlab.files.artifacts import write_text

    found, out = snakemake.input, snakemake.output
    run = Run(snakemake.params.study, snakemake.params.cells)
    findings = [f for path in found.get("findings", []) for f in json.loads(Path(path).read_text(encoding="utf-8"))]
    missed = pd.read_csv(found.missed, dtype={"case_id": str}, keep_default_na=False)
    figures = paper.captions(found.get("figures", []), ".tex")
    tables = paper.captions(found.get("captions", []), ".caption.tex") | paper_tables.OWN_CAPTIONS
    for name, text in paper_tables.own_tables(run, missed, paper.sources(figures, tables)).items():
        write_text(out[name], text)
    requests = load_requests(found.requests)
    write_text(out.generated, paper.generated(run, requests, findings, figures, tables, missed))
