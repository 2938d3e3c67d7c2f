"""Train the base of one seed on descriptions of tasks, and save it with its training log."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.adapters.preparation import make_base
    from editlab.config.adapters import AdaptersStudy
    from editlab.files.artifacts import replace_directory, write_csv
    from editlab.randomness import set_threads

    set_threads(snakemake.threads)
    model, log = make_base(AdaptersStudy.model_validate(snakemake.params.study), snakemake.params.seed)
    with replace_directory(snakemake.output.base) as directory:
        model.save_pretrained(directory)
        model.tokenizer.save_pretrained(directory)
    write_csv(snakemake.output.training, pd.DataFrame(log))
