"""Choose which epoch of which run stands for a method, by rules that look at no attack."""

from common import job

with job(snakemake):
    from editlab.config.unlearning import Scoring, Selection
    from editlab.files.artifacts import write_json
    from editlab.unlearning.selection import choose, primary_metric, read_runs

    scores = read_runs(snakemake.input, snakemake.params.points)
    metric = primary_metric(scores[scores["epoch"] == 0], Scoring.model_validate(snakemake.params.scoring))
    chosen = choose(scores, metric, Selection.model_validate(snakemake.params.selection))
    write_json(snakemake.output[0], {**chosen, "metric": metric})
