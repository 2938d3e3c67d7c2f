"""Data sets: a generated world of facts, or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from editlab.config.base import Count, Section
from editlab.errors import ConfigError

SUBJECTS_PER_OBJECT = 6  # of the generated world: one to edit, five neighbours with two statements each
RESERVED_PER_OBJECT = 2  # of these, subjects that no stream edits
MIN_OBJECTS, MAX_OBJECTS, MAX_RELATIONS = 4, 30, 15
SWEEP_PART = 5  # at most a fifth of a data set is kept for the choice of recipes


class Reserve(Section):
    """What every data set keeps back."""

    sweep_facts: Annotated[int, Field(ge=0)] = Field(
        128, description="facts that no experiment of any run edits: recipes are chosen on them; at most a fifth of all"
    )

    def kept(self, facts: int) -> int:
        """How many of so many facts are kept for the choice of recipes, at most."""
        return min(self.sweep_facts, facts // SWEEP_PART)


class FactsData(Reserve):
    """The generated world of facts."""

    kind: Literal["facts"]
    size: Annotated[int, Field(ge=12, le=50_000)] = Field(1800, description="facts")
    seed: int = Field(1, description="seed of the world")
    facts_a_subject: Literal[1, 5] = Field(
        5,
        description="1: each subject has one fact, as in CounterFact; 5: one of every relation of its kind, five on average",
    )
    chains: bool = Field(
        False,
        description="state facts over two hops, inverse relations and a question form too, and ask for them after edits",
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(relations, facts of the largest relation, objects of that relation)."""
        relations = min(max(self.size // (MIN_OBJECTS * SUBJECTS_PER_OBJECT), 1), MAX_RELATIONS)
        share = -(-self.size // relations)
        return relations, share, min(share // SUBJECTS_PER_OBJECT, MAX_OBJECTS)

    @property
    def editable(self) -> int:
        """Facts that a stream may edit, at least: neither neighbours of its own nor kept for the choice of recipes."""
        relations, _, objects = self.shape
        return self.size - relations * RESERVED_PER_OBJECT * objects - self.kept(self.size)


SMALL = 8_000_000  # bytes of a file that is counted while the workflow is planned

FileKind = Literal[
    "auto", "counterfact", "easyedit", "zsre", "knowedit", "qaedit", "mquake", "ripple", "peak", "relations"
]


class FileData(Reserve):
    """A file of requests, local or downloaded; docs/data_formats.md shows the forms."""

    kind: FileKind = Field("auto", description="form of its records; auto tells it from the first one")
    path: str = Field(description="local file; with url: where the download is kept")
    url: Annotated[str, Field(pattern=r"^https://")] | None = Field(None, description="fetched when path is missing")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="checksum of the file")
    size: Count | None = Field(None, description="the first so many records of the file; default: all")
    skip_invalid: bool = Field(False, description="leave out records that cannot be used, and count them by reason")

    @model_validator(mode="after")
    def _check(self) -> FileData:
        if self.url and not self.sha256:
            raise ValueError("sha256: required with url")
        return self

    @property
    def file(self) -> Path:
        """The local file."""
        return Path(self.path).expanduser()

    def most_requests(self) -> int | None:
        """How many requests of the file can be edited; None where it is large, absent or not a list, which its reader reports."""
        try:
            if self.file.stat().st_size > SMALL:
                return None
            records = json.loads(self.file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        records = (records if isinstance(records, list) else [records])[: self.size]
        parts = [r.get("requested_rewrite", r.get("samples")) for r in records if isinstance(r, dict)]
        found = sum(len(part) if isinstance(part, list) else 1 for part in parts)
        return found - self.kept(found)

    def check_files(self, where: str) -> None:
        """Raise :class:`ConfigError` when the file is neither there nor to be downloaded."""
        if not self.file.is_file() and not self.url:
            raise ConfigError(
                f"config: {where}.path: {self.path!r} is not a file; name an existing file (or --config data_path=FILE)"
            )


def _branch(value: Any) -> str:
    """Which of the two a section is: a generated world says so, a file need not name its kind."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "facts" if kind == "facts" else "file"


Dataset = Annotated[Annotated[FactsData, Tag("facts")] | Annotated[FileData, Tag("file")], Discriminator(_branch)]
