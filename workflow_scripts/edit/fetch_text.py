"""Write the text of a hub data set, a text a line, without holding it."""

from common import job

with job(snakemake):
    import json

    from editlab.config.preparation import HubText
    from editlab.data.hub import hub_text
    from editlab.files.artifacts import atomic_path

    options = HubText.model_validate(snakemake.params.hub)
    with atomic_path(snakemake.output[0]) as path, open(path, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in hub_text(options))
