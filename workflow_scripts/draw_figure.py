"""One figure from its table, with its caption for the HTML report and for LaTeX."""

from common import job

with job(snakemake) as log:
    from editlab.files.worker import call

    call(
        "editlab.analysis.report.making:draw",
        {
            "study": snakemake.params.study,
            "topic": snakemake.params.topic,
            "figure": snakemake.wildcards.figure,
            "tables": dict(snakemake.input.items()),
            "outputs": dict(snakemake.output.items()),
        },
        worker="figures",
        preload=[("editlab.analysis.report.making:warm_up", {"studies": snakemake.params.studies})],
        log=log,
    )
