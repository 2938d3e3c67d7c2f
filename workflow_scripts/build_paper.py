"""The paper, typeset by LaTeX or tectonic."""

from common import job

with job(snakemake):
    import sys
    from pathlib import Path

    from editlab.analysis.paper import DETAIL, short
    from editlab.analysis.typeset import typeset_within

    found = snakemake.input
    sources = {Path(f).name: f for f in [*found.sources, found.generated]}
    sources |= {f"figures/{short(f)}.pdf": f for f in found.get("figures", [])}
    sources |= {f"tables/{Path(f).name}": f for f in [*found.get("tables", []), *found.own]}
    limit = {"pages": snakemake.params.pages, "detail": DETAIL}
    outcome = typeset_within(sources, "paper", snakemake.output[0], snakemake.log.latex, **limit)
    for worry in outcome.undefined + outcome.overfull:
        print(worry, file=sys.stderr)
