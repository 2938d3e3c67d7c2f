"""One figure from its table, with its caption for the HTML report and for LaTeX."""

from common import job

with job(snakemake) as log:
    from editlab.files.worker import call

    call(
        "editlab.analysis.draw:draw",
        {
            "figure": snakemake.params.figure,
            "table": snakemake.input.table,
            "outputs": dict(snakemake.output.items()),
        },
        worker="figures",
        preload=[("editlab.analysis.draw:warm_up", {})],
        log=log,
    )
