"""The house holds: nothing imports upward or in circles, module names live in one file, figures need no torch."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from editlab.files.code import HOME, direct_reach
from editlab.networks.architectures import FAMILIES

FLOORS: list[str] = [
    "errors randomness",
    "config files",
    "algebra networks",
    "data edits moments",
    "evaluation training",
    "editing vision unlearning adapters",
    "analysis.statistics analysis.text",
    "analysis.draw analysis.paper",
    "analysis.report",
    "analysis.edit analysis.vision analysis.unlearning analysis.adapters",
]
"""From the ground up. A room is a folder (or a file that stands alone); a room of another name belongs nowhere."""
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
ROOT = HOME / "editlab"
FILES = sorted(ROOT.rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# ``editlab`` itself loads its public functions by name on first use; ``analysis`` is but the house of its rooms.
MODULES = [name for name in map(name_of, FILES) if name not in ("__init__", "analysis")]


def direct_imports(module: str) -> set[str]:
    """Modules of the library that a module takes from, without the packages that lie around them."""
    names = {name.removeprefix("editlab.") for name in direct_reach(f"editlab.{module}") if name.startswith("editlab.")}
    return {name for name in names if name != module and not module.startswith(f"{name}.")}


def room_of(module: str) -> str:
    """The folder; those of ``analysis`` are rooms of their own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "analysis" else parts[0]


def floor_of(module: str) -> int:
    assert room_of(module) in FLOOR_OF, f"{module} has no floor: its folder is none of the rooms"
    return FLOOR_OF[room_of(module)]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_room_and_the_floors_below(module):
    foreign = {m for m in direct_imports(module) if room_of(m) != room_of(module)}
    wrong = {m for m in foreign if floor_of(m) >= floor_of(module)}
    assert not wrong, f"{module} (floor {floor_of(module)}) imports {wrong}"


def test_no_import_goes_in_circles():
    order = graphlib.TopologicalSorter({m: direct_imports(m) for m in MODULES})
    order.prepare()  # CycleError names the circle


def test_a_cycle_and_an_unknown_room_would_be_found():
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": ["b"], "b": ["a"]}).prepare()
    with pytest.raises(AssertionError, match="has no floor"):
        floor_of("newroom.module")


def strings(file: Path) -> list[str]:
    """String constants of a file other than docstrings, and attribute names."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in documents
    ]
    return found + [f".{n.attr}" for n in ast.walk(tree) if isinstance(n, ast.Attribute)]


def module_names() -> set[str]:
    """Names of submodules that mean nothing outside a model, such as ``c_proj`` and ``transformer.h``."""
    names: set[str] = set()
    for family in FAMILIES.values():
        for path in (family.blocks, family.embeddings, family.final_norm, family.projection, family.attention):
            names.add(path)
            names.add(path.split(".")[-1])
        names.add(f"{family.mlp}.")
    # Words that other files use in their own right: "layers" of a recipe, the "norm" of a vector, our own property.
    return names - {"layers", "norm", "h", "attention", "embeddings"} | {"lm_head"}


def test_module_names_appear_in_architectures_alone():
    pattern = re.compile("|".join(rf"(?<![A-Za-z0-9_]){re.escape(n)}(?![A-Za-z0-9_])" for n in sorted(module_names())))
    for file in FILES:
        # The substrate is built by transformers' configuration classes; vision models have an adapter of their own.
        if file.name == "architectures.py":
            assert any(pattern.search(text) for text in strings(file))
            continue
        found = [text for text in strings(file) if pattern.search(text) and " " not in text]
        assert not found, f"{file.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_global_no_pickle_no_relative_import(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), "global state"
        if isinstance(node, ast.Import):
            pickles = {a.name.split(".")[0] for a in node.names} & {"pickle", "dill", "cloudpickle", "joblib"}
            # A published data set is pickled: this reader makes arrays of what it says, and refuses everything else.
            assert not pickles or (file.name == "plain_pickle.py" and pickles == {"pickle"})
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: code_digest would not see it"
            assert (node.module or "").split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "__main__"}
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}
            assert (node.value.id, node.attr) != ("time", "time"), "results must not depend on the clock"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, node.func.id
            assert node.func.id != "print" or any(k.arg == "file" for k in node.keywords), "printing as logging"


def loaded_after(imports: list[str]) -> set[str]:
    code = f"import sys\nfor m in {imports!r}:\n    __import__(m)\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split())


def test_import_editlab_costs_nothing():
    assert not loaded_after(["editlab"]) & {"torch", "transformers", "numpy", "pandas", "pydantic"}


def test_configuration_figures_and_tables_do_not_import_torch():
    light = [f"editlab.{m}" for m in MODULES if floor_of(m) < 2 or room_of(m).startswith("analysis.")]
    assert len(light) > 8
    heavy = loaded_after(light) & {"torch", "transformers", "peft"}
    assert not heavy, heavy


def test_data_and_evaluation_tables_do_not_import_torch():
    light = [f"editlab.{m}" for m in MODULES if room_of(m) == "data"]
    assert not loaded_after(light) & {"torch", "transformers"}
