"""Write docs/configuration.md from the typed configuration: ``python docs/make_configuration.py``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from editlab.config.base import sections_in
from editlab.config.recipe import Recipe
from editlab.config.run import Run, study_class
from editlab.config.solvers import SOLVERS
from editlab.config.studies import STUDIES
from editlab.config.targets import TargetOptions

HEAD = """# Configuration

`config.yaml` is the default run; a file given with `--configfile` is another one, laid over it key by key. A run has a block
for each study that it does (`edit: null` leaves one out); the experiments that a block gives take the place of the default
run's. Everything is checked before any job starts; a mistake is one line with the key, its value and what is allowed.
Top-level keys can be set on the command line (`--config data_path=FILE`). This page is written by
`docs/make_configuration.py` from the classes in `editlab/config/`.
"""


def default(field: object) -> str:
    if field.is_required():  # type: ignore[attr-defined]
        return "required"
    value = field.get_default(call_default_factory=True)  # type: ignore[attr-defined]
    if isinstance(value, BaseModel):
        return "see below"
    return "" if value is PydanticUndefined else f"`{value}`"


def section(model: type[BaseModel]) -> str:
    lines = [f"## {model.__name__}", "", (model.__doc__ or "").split("\n")[0], "", "| key | default | meaning |"]
    lines.append("|---|---|---|")
    for name, field in model.model_fields.items():
        lines.append(f"| `{name}` | {default(field)} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def reached(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The section and all below it, in the order in which they are met; a recipe has those of its targets and its solver too."""
    found = [model, TargetOptions, *SOLVERS.values()] if model is Recipe else [model]
    for field in model.model_fields.values():
        for section in sections_in(field.annotation):
            found += [m for m in reached(section) if m not in found]
    return found


def page() -> str:
    """The frame, then every study with the sections below it; each section once."""
    own = [study_class(name) for name in STUDIES]
    parts, shown = [HEAD], set(own)
    frame = [m for m in reached(Run) if not any(m in reached(study) for study in own)]
    for title, models in [
        ("", frame),
        *((f"# The study {name}", reached(s)) for name, s in zip(STUDIES, own, strict=True)),
    ]:
        parts += [title + "\n"] if title else []
        parts += [section(m) for m in models if m not in shown or m in own]
        shown |= set(models)
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(page(), encoding="utf-8")
