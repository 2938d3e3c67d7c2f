"""The generated part of the paper: values, findings, captions and its own small tables."""

from common import job

with job(snakemake):
    from pathlib import Path

    from editlab.analysis.report import paper
    from editlab.analysis.report.front import told_of
    from editlab.files.artifacts import replace_directory, write_text

    found, p = snakemake.input, snakemake.params
    studies = told_of(p.runs, p.tables, list(found.get("findings", [])))
    figures, sheets = (
        {Path(f).stem: Path(f).read_text(encoding="utf-8").strip() for f in found.get(kind, [])}
        for kind in ("figures", "captions")
    )
    tables = {Path(f).stem: f for f in found.get("collected", [])}
    with replace_directory(snakemake.output.tables) as folder:
        for name, text in paper.own_tables(studies, tables, figures, sheets).items():
            write_text(Path(folder, f"{name}.tex"), text)
    write_text(snakemake.output.generated, paper.generated(studies, figures, sheets))
