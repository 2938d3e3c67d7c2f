"""Typed sections of the configuration, and pydantic's report of a bad value turned into one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editlab.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME)]


TAGGED = ("models", "datasets")  # sections by name, whose entries are of several kinds
_BRANCH = re.compile(r"(list|literal|function-\w+)\[.*")  # how pydantic names the branch of an untagged union


class Section(BaseModel):
    """A section is immutable, and refuses unknown keys and values of another type: no "4" for 4, no 1 for true."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Study(Section):
    """What the frame asks of the block of a study (:mod:`editlab.config.studies`).

    Attributes:
        INPUTS: sections that models, data and statistics are made from: equal in a run that takes them from another one.
    """

    INPUTS: ClassVar[tuple[str, ...]] = ()

    def check_files(self, where: str) -> None:
        """Raise :class:`ConfigError` when a file that the study needs is not there, or a small one holds too little.

        Args:
            where: the key of the block, for the message.
        """


def validated(section: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """``section(**values)`` with pydantic's report turned into one line."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: must be a mapping, got {type(values).__name__}")
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        text = f"{where}: {_first_problem(section, error)}"
        raise ConfigError("".join(c if c.isprintable() else repr(c)[1:-1] for c in text)) from None


def _first_problem(section: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    path = [str(part)[:60] for part in problem["loc"]]
    for place in [k + 2 for k, part in enumerate(path[:-2]) if part in TAGGED]:
        del path[place]  # pydantic names the branch of the union that it took
    path = [part for part in path if not _BRANCH.match(part)]
    key = ".".join(path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _fields_at(section, path[:-1])
        close = difflib.get_close_matches(path[-1], allowed, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{key}: unknown key; {hint}allowed here: {', '.join(allowed)}{more}"
    if problem["type"] == "missing":
        return f"{key}: required but missing{more}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key + '.' if key else ''}{message}{more}"
    return f"{key}: {short(problem['input'])} is not allowed; {message[:1].lower() + message[1:]}{more}"


def choose(key: str, value: str, allowed: Mapping[str, Any]) -> None:
    """Raise ValueError when ``value`` is none of the names of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{key}: {short(value)} is not allowed; one of {', '.join(sorted(allowed))}")


def short(value: Any) -> str:
    """A value as a message shows it: one line of at most 60 characters."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(section: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the section that ``path`` leads to, through dictionaries, lists and unions."""
    homes: list[type[BaseModel]] = [section]
    for part in path:
        nested: list[type[BaseModel]] = []
        for home in homes:
            if part in home.model_fields:
                nested += sections_in(home.model_fields[part].annotation)
        homes = nested or homes
    return sorted({name for home in homes for name in home.model_fields})


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field's type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [s for argument in getattr(annotation, "__args__", ()) for s in sections_in(argument)]
