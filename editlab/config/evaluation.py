"""What is measured of edited models, when, and how they are retrained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from editlab.config.base import Count, Positive, PositiveShare, Section


class Evaluation(Section):
    """What is measured, when."""

    snapshot_every: Count = Field(32, description="edits between snapshots of the curve")
    scored_cases: Count | None = Field(
        None,
        description="facts of a stream that are scored right after their batch and at its end, a seeded sample; null: all",
    )
    retention_cases: Count = Field(200, description="earlier edits scored at a snapshot, at most")
    same_subject_facts: Annotated[int, Field(ge=0)] = Field(
        2, description="unedited facts of an edited subject that are scored (SS), at most: a seeded sample a case"
    )
    perplexity_sentences: Annotated[int, Field(ge=0)] = 200
    perplexity_text: str | None = Field(None, description="text file; default: held-out neutral sentences")
    generation_cases: Annotated[int, Field(ge=0)] = Field(20, description="cases whose text is generated for GE")
    generation_tokens: Count = 30
    probe_cases: Annotated[int, Field(ge=0)] = Field(
        48,
        description="cases of each kind of probe (portability, locality, multi-hop, generated answers) that are scored, at "
        "most: drawn by the cell's seed",
    )
    answer_tokens: Count = Field(8, description="tokens of a generated answer, at most")
    question_template: Annotated[str, Field(pattern=r"\{\}")] = Field(
        "{}", description='put around the question of a probe, e.g. "Q: {}\\nA:"'
    )
    inference_prompts: Annotated[int, Field(ge=0)] = Field(
        0,
        description="prompts on which the time to read the edited model is compared with the unedited one's; 0: not measured",
    )
    resamples: Count = Field(1000, description="bootstrap resamples of an interval")
    checkpoint_every: Count = Field(480, description="edits after which a long stream saves itself, to be resumed")


class Retraining(Section):
    """Retraining of edited models on the true objects of a part of the edited facts (RTT)."""

    share: PositiveShare = Field(0.5, description="share of the edited facts that are retrained")
    epochs: Count = Field(10, description="passes over them")
    batch: Count = Field(32, description="facts a step")
    lr: Positive = Field(3e-4, description="learning rate of Adam on all weights")
    controls: Count = Field(100, description="facts that were never edited, at most")
