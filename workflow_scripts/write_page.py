"""One interactive page: DataTables comes from the wheel of itables, vega from Snakemake."""

from common import job

with job(snakemake):
    from editlab.analysis.report.making import read_tables, report_of
    from editlab.analysis.report.pages import page
    from editlab.analysis.text.wording import rst
    from editlab.files.artifacts import write_text

    wanted = next(p for p in report_of(snakemake.params.study).pages if p.name == snakemake.wildcards.page)
    tables = read_tables({name: path for name, path in snakemake.input.items() if name in wanted.tables})
    write_text(snakemake.output.page, page(wanted.title, wanted.intro, wanted.script, wanted.data(tables)))
    write_text(snakemake.output.rst, rst(wanted.caption(tables)) + "\n")
