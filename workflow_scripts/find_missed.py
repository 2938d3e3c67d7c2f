"""The facts that the methods miss, with their text."""

from common import job

with job(snakemake):
    from editlab.analysis.failures import missed_facts
    from editlab.analysis.run import Run
    from editlab.data import load_requests
    from editlab.files.artifacts import write_csv

    run = Run(snakemake.params.study, {"main": snakemake.params.cells})
    requests = {request.case_id: request for request in load_requests(snakemake.input.requests)}
    write_csv(snakemake.output[0], missed_facts(run.finished("main"), requests, run.controls()))
