"""Write the text of a hub data set as a plain file."""

from common import job

with job(snakemake):
    from editlab.config.edit import HubText
    from editlab.data.hub import hub_text
    from editlab.files.artifacts import write_text

    write_text(snakemake.output[0], hub_text(HubText.model_validate(snakemake.params.hub)))
