"""What is prepared before anything is edited: second moments and the text that they are taken over, contexts, layers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from editlab.config.base import Count, Positive, Section


class HubText(Section):
    """Text of a hub data set, fetched by a rule (needs the package ``datasets``)."""

    id: str
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    column: str = "text"
    characters: Count = Field(20_000_000, description="text kept")
    texts: Count | None = Field(None, description="texts kept, at most")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="checksum of that text")


class Statistics(Section):
    """Second moments of the keys."""

    tokens_per_dimension: Positive = Field(10.0, description="token budget as a multiple of d_in")
    samples: Count | None = Field(
        None, description="texts, the first max_length tokens of each, in place of that budget (published: 100,000)"
    )
    text: str | None = Field(
        None,
        description="text file, .jsonl (its field text) or folder of such to stream; default: a substrate's own corpus",
    )
    hub: HubText | None = Field(None, description="hub data set to stream where no text file is named")
    published: str | None = Field(
        None,
        description="path of statistics files of the MEMIT code (.npz), with {layer} in it, in place of an own pass",
    )
    max_length: Count = Field(256, description="tokens a sequence")

    @model_validator(mode="after")
    def _check(self) -> Statistics:
        if self.published is not None and "{layer}" not in self.published:
            raise ValueError(
                f"published: {self.published!r} is not allowed; a path with {{layer}} where the number stands"
            )
        return self

    def published_file(self, layer: int) -> str:
        """The statistics file of a layer."""
        return str(self.published).replace("{layer}", str(layer))


class ContextTemplates(Section):
    """Prefixes put before a prompt when keys and targets are computed."""

    fixed: list[list[str]] | None = Field(None, description="grouped templates in place of generated ones")
    per_length: Count = Field(5, description="generated prefixes of each length")
    lengths: list[Count] = Field([5, 10], description="lengths of generated prefixes in tokens")
    seed: int = 1


class EditContexts(ContextTemplates):
    """The contexts of a run."""

    rome: ContextTemplates | None = Field(
        None, description="those of rank-one recipes, where they have their own (ROME: 10 each of 5 and 10 tokens)"
    )


class Tracing(Section):
    """Layer choice by causal tracing."""

    cases: Count = 50
    known_only: bool = Field(True, description="trace only facts that the model knows")
    noise: Positive = Field(3.0, description="in standard deviations of the subject embeddings")
    samples: Count = Field(10, description="noise draws")
    window: Count | None = Field(None, description="layers restored together; default a tenth of them")
    top: Count = Field(1, description="layers chosen")
