"""Score what the edits of a method left behind, on all levels."""

from pathlib import Path

from common import job
from vision_job import perform

with job(snakemake) as log:
    left, draws = snakemake.input.outcomes, snakemake.params.draws
    if isinstance(left, str):
        left = [str(Path(left, f"draw~{draw}.safetensors")) for draw in draws]
    perform(
        snakemake,
        log,
        "editlab.vision.outcomes:score_stage",
        model=snakemake.input.model,
        outcomes=list(zip(draws, left, strict=True)),
        discovery=snakemake.input.discovery[0],
        errors=snakemake.input.errors,
        test=snakemake.input.test[0],
        ft_train=snakemake.input.ft_train[0],
        keys=snakemake.input.preserved,
        recipe=snakemake.params.recipe,
        max_edits=int(snakemake.wildcards.edits),
        options={
            "heldout_samples": snakemake.params.heldout_samples,
            "ambiguous_gap": snakemake.params.ambiguous_gap,
        },
        coordinates={k: getattr(snakemake.wildcards, k) for k in ("dataset", "method", "seed")},
        targets={name: path for name, path in snakemake.output.items() if name != "record"},
    )
