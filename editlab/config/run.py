"""A run: the frame's own settings and one block for each study that it does.

:func:`read_layers` lays YAML files over each other, :func:`load_run` turns the result into a :class:`Run` or raises one
:class:`ConfigError` of one line: the key, its value and what is allowed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, create_model, model_validator

from editlab.config.base import Name, Section, Study, short, validated
from editlab.config.resources import Resources
from editlab.config.studies import STUDIES
from editlab.errors import ConfigError

DEFAULT = "default"
# Folders of the default run's results, which no other run may be called; the studies' names are among them, too.
# fmt: off
FOLDERS = [
    "benchmarks", "captions", "contexts", "data", "downloads", "figures", "known", "layers", "models", "paper", "report",
    "retrained", "statistics", "sweep", "tables", "training",
]
# fmt: on
REPLACED = ("experiments",)  # sections of a study's block that a run lists whole


class Frame(Section):
    """What every run has, whatever studies it does."""

    run: Name = Field(description="name of the run, and of the folder of its results (default: results itself)")
    inputs_from: Name | None = Field(
        None, description="run whose models, data and statistics are taken; the sections behind them must be equal"
    )
    data_path: str | None = Field(
        None, description="overrides the path of the data set that a study works on (for --config)"
    )
    resources: dict[str, Resources] = Field(default_factory=dict, description="by rule; default applies elsewhere")
    allow_missing: bool = Field(False, description="write tables with holes, and list them")

    @model_validator(mode="after")
    def _check(self) -> Frame:
        if self.run in FOLDERS or self.run in STUDIES:
            raise ValueError(f"run: {self.run!r} is not allowed; results/{self.run} belongs to the default run")
        if not self.studies:
            raise ValueError(f"at least one study is required: {', '.join(STUDIES)}")
        return self

    @property
    def studies(self) -> dict[str, Study]:
        """The blocks of the studies that this run does, by name."""
        return {name: block for name in STUDIES if (block := getattr(self, name, None)) is not None}

    @property
    def folder(self) -> str:
        """Folder of this run's results."""
        return folder_of(self.run)

    @property
    def inputs(self) -> str:
        """Folder of the results that this run takes models, data and statistics from."""
        return folder_of(self.inputs_from or self.run)


def folder_of(run: str) -> str:
    """Folder of a run's results."""
    return "results" if run == DEFAULT else f"results/{run}"


def study_class(name: str) -> type[Study]:
    """The class of a study's block."""
    module, _, attribute = STUDIES[name].partition(":")
    found: type[Study] = getattr(importlib.import_module(module), attribute)
    return found


if TYPE_CHECKING:
    Run = Frame
else:
    Run = create_model(
        "Run",
        __base__=Frame,
        __doc__="A run: what every run has, and the blocks of its studies.",
        **{name: (study_class(name) | None, Field(None, description=f"the study {name}")) for name in STUDIES},
    )


def load_run(values: Mapping[str, Any]) -> Run:
    """Validate a merged configuration.

    Raises:
        ConfigError: one line with the key, its value and what is allowed.
    """
    run: Run = validated(Run, values, "config")
    return run if run.data_path is None else validated(Run, _with_data_path(values, run), "config")


def _with_data_path(values: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The values, with ``data_path`` in the place of the path of every chosen data set that is a file."""
    changed, found = dict(values), False
    for name, block in run.studies.items():
        chosen = getattr(block, "dataset", None)
        if hasattr(getattr(block, "datasets", {}).get(chosen), "path"):
            entry = {**values[name]["datasets"][chosen], "path": run.data_path}
            changed[name] = {**values[name], "datasets": {**values[name]["datasets"], chosen: entry}}
            found = True
    if not found:
        raise ConfigError(
            f"config: data_path: {short(run.data_path)} is not allowed; no study of this run reads a file"
        )
    return changed


def check_files(run: Run) -> None:
    """Raise :class:`ConfigError` when a file that the run needs is not there; nothing is opened."""
    for name, block in run.studies.items():
        block.check_files(name)


# ---- files and layers ------------------------------------------------------------------------------------------------


_EXPONENT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+\Z")  # a number for YAML 1.2, text for PyYAML: 5e-4


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, since the first would be lost silently; reads 5e-4 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As in yaml, with an error for the second of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _typed(value: Any) -> Any:
    """A value of the command line, which Snakemake has read: true is no text there, nor is 5e-4."""
    if isinstance(value, dict):
        return {key: _typed(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_typed(entry) for entry in value]
    if not isinstance(value, str):
        return value
    return {"true": True, "false": False}.get(value.lower(), float(value) if _EXPONENT.match(value) else value)


def read_layer(path: str | Path) -> dict[str, Any]:
    """One YAML (or JSON) file of a run.

    Raises:
        ConfigError: it cannot be read, is no YAML, holds a key twice or no mapping; one line with the file.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            found = _Loader(file).get_single_data()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or "no valid YAML"
        raise ConfigError(f"{path}{place}: {' '.join(str(problem).split())}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: must hold a mapping, got {type(found).__name__}")
    return found


def laid_over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """One configuration over another, key by key; experiments are not mixed: a study's block lists its own or none.

    A block that lists its own does not inherit the switches of further work that belongs to the others (``WITH_EXPERIMENTS`` of
    its class, where it has any).
    """
    low = {key: _without_switches(key, block, high.get(key)) for key, block in low.items()}
    return _merged(low, high, [(study, section) for study in STUDIES for section in REPLACED])


def _without_switches(study: str, low: Any, high: Any) -> Any:
    if (
        study not in STUDIES
        or not all(isinstance(block, Mapping) for block in (low, high))
        or "experiments" not in high
    ):
        return low
    switches: Sequence[str] = getattr(study_class(study), "WITH_EXPERIMENTS", ())
    return {key: value for key, value in low.items() if key not in switches}


def _merged(low: Any, high: Any, replaced: Sequence[tuple[str, str]], path: tuple[str, ...] = ()) -> Any:
    if not (isinstance(low, Mapping) and isinstance(high, Mapping)) or path in replaced:
        return high
    return {
        key: _merged(low[key], high[key], replaced, (*path, str(key)))
        if key in low and key in high
        else (high if key in high else low)[key]
        for key in {**low, **high}
    }


def read_layers(files: Sequence[str | Path], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """YAML files laid over each other, the first lowest, and ``given`` (of ``--config``) over all of them.

    Raises:
        ConfigError: as of :func:`read_layer`.
    """
    found: dict[str, Any] = {}
    for layer in [*(read_layer(file) for file in files), _typed(dict(given or {}))]:
        found = laid_over(found, layer)
    return found


# ---- inputs of another run -------------------------------------------------------------------------------------------


def source_of_inputs(run: Run, root: str | Path) -> Run:
    """The run that models, data and statistics are taken from: ``run`` itself, or the one that ``inputs_from`` names.

    Args:
        root: the folder of ``config.yaml`` and ``runs/``.

    Raises:
        ConfigError: there is no such run, or a section behind its inputs is another one; the first difference is named.
    """
    if run.inputs_from in (None, run.run):
        return run
    where, name = "config: inputs_from:", run.inputs_from
    files = [Path(root, "config.yaml"), *([] if name == DEFAULT else [Path(root, "runs", f"{name}.yaml")])]
    if not files[-1].is_file():
        raise ConfigError(f"{where} {name!r} is not allowed; there is no {files[-1].relative_to(root)}")
    source = load_run(read_layers(files))
    if source.run != name or source.inputs_from is not None:
        raise ConfigError(f"{where} {name!r} is not allowed; it must be a run of that name with inputs of its own")
    for study, block in run.studies.items():
        other = source.studies.get(study)
        if other is None:
            raise ConfigError(f"{where} {name!r} is not allowed; that run has no study {study}")
        for section in block.INPUTS:
            if difference := _difference(getattr(block, section), getattr(other, section), (study, section)):
                raise ConfigError(f"{where} {name!r} is not allowed; {difference}")
    return source


def _difference(mine: Any, theirs: Any, path: tuple[str, ...]) -> str | None:
    """The first difference of two sections, in words."""
    if isinstance(mine, Section):
        mine = mine.model_dump()
    if isinstance(theirs, Section):
        theirs = theirs.model_dump()
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        pairs = ((key, mine.get(key), theirs.get(key)) for key in {**mine, **theirs})
        return next((d for key, a, b in pairs if (d := _difference(a, b, (*path, key)))), None)
    return None if mine == theirs else f"{'.'.join(path)} is {short(mine)} here and {short(theirs)} there"
