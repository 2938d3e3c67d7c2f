"""Data sets: a generated world of facts, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from editlab.config.base import Section
from editlab.errors import ConfigError


class FactsData(Section):
    """The generated world of facts."""

    kind: Literal["facts"]
    size: Annotated[int, Field(ge=12, le=50_000)] = Field(1800, description="facts")
    seed: int = Field(1, description="seed of the world")


class FileData(Section):
    """A CounterFact, EasyEdit or zsRE file, local or downloaded."""

    kind: Literal["counterfact", "easyedit", "zsre", "auto"]
    path: str = Field(description="local file; with url: where the download is kept")
    url: Annotated[str, Field(pattern=r"^https://")] | None = Field(None, description="fetched when path is missing")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="checksum of the file")

    @model_validator(mode="after")
    def _check(self) -> FileData:
        if self.url and not self.sha256:
            raise ValueError("sha256: required with url")
        return self

    @property
    def file(self) -> Path:
        """The local file."""
        return Path(self.path).expanduser()

    def check_files(self, where: str) -> None:
        """Raise :class:`ConfigError` when the file is neither there nor to be downloaded."""
        if not self.file.is_file() and not self.url:
            raise ConfigError(
                f"config: {where}.path: {self.path!r} is not a file; name an existing file (or --config data_path=FILE)"
            )


Dataset = Annotated[FactsData | FileData, Field(discriminator="kind")]
