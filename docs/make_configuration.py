"""Write docs/configuration.md from the typed configuration: ``python docs/make_configuration.py``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from editlab.config import recipe, sections
from editlab.config import study as config

HEAD = """# Configuration

`config.yaml` is the default study; a file given with `--configfile` is laid over it, key by key. Everything is checked
before any job starts; a mistake is one line with the key, its value and what is allowed. Top-level keys can be set on the
command line (`--config data_path=FILE`). This page is written by
`docs/make_configuration.py` from `editlab/config/sections.py` and `editlab/config/recipe.py`.
"""
ORDER = [
    config.Study,
    sections.FactsData,
    sections.FileData,
    sections.SubstrateModel,
    sections.HubModel,
    recipe.Recipe,
    recipe.Trust,
    recipe.TrustWeights,
    recipe.TrustScales,
    recipe.Greedy,
    recipe.Posthoc,
    sections.Experiment,
    sections.Statistics,
    sections.HubText,
    sections.ContextTemplates,
    sections.Tracing,
    sections.Evaluation,
    sections.Retraining,
    sections.Sweep,
    sections.Resources,
]


def type_name(annotation: object) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else str(annotation)
    for old, new in (("typing.", ""), ("editlab.config.sections.", ""), ("NoneType", "null"), ("None", "null")):
        text = str(text).replace(old, new)
    return text.split("Annotated[")[0] if text.startswith("Annotated[") else text


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


def page() -> str:
    return "\n".join([HEAD, *(section(model) for model in ORDER)])


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(page(), encoding="utf-8")
