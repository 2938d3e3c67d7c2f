"""Retrain an edited model on the true objects of a part of the edited facts; score the others and the controls."""

from common import job

with job(snakemake):
    from editlab.config.evaluation import Retraining
    from editlab.data import load_requests
    from editlab.data.corpus import read_known
    from editlab.editing.probes import evaluated_prompts
    from editlab.editing.retraining import retrain_on_truth
    from editlab.edits.edit import Edit
    from editlab.files.artifacts import write_csv
    from editlab.networks.loading import load_model
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    options = Retraining.model_validate(snakemake.params.options)
    known, edit = read_known(snakemake.input.known), Edit.load(snakemake.input.edit)
    requests, cases = load_requests(snakemake.input.requests), set(edit.info["cases"])
    edited = [r for r in requests if r.case_id in cases]
    asked = evaluated_prompts(edited)
    others = [r for r in requests if r.case_id in known - cases and r.rewrite_prompt not in asked]
    model = load_model(snakemake.input.model, **snakemake.params.loading)
    table = retrain_on_truth(model, edit, edited, others, options, seed=snakemake.params.cell_seed)
    write_csv(snakemake.output[0], table)
