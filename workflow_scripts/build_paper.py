"""The paper, typeset by LaTeX or tectonic."""

from common import job

with job(snakemake):
    import shutil
    import sys
    from pathlib import Path

    from editlab.analysis.paper.typeset import typeset_within
    from editlab.analysis.report.making import report_of
    from editlab.analysis.report.paper import detail
    from editlab.files.artifacts import atomic_path

    found = snakemake.input
    sources = {Path(f).name: f for f in [*found.sources, found.generated]}
    sources |= {f"sections/{Path(f).name}": f for f in found.sections}
    sources |= {f"figures/{Path(f).name}": f for f in found.get("figures", [])}
    sources |= {f"tables/{Path(f).name}": f for f in [*found.get("tables", []), *Path(found.own).glob("*.tex")]}
    limit = {"pages": snakemake.params.pages, "detail": detail(map(report_of, snakemake.params.studies))}
    first, *copies = snakemake.output
    outcome = typeset_within(sources, "paper", first, snakemake.log.latex, **limit)
    for copy in copies:
        with atomic_path(copy) as temporary:
            shutil.copyfile(first, temporary)
    for worry in outcome.undefined + outcome.overfull:
        print(worry, file=sys.stderr)
