"""Which source files a job's result depends on, read from the script that the job runs, and a digest over them.

A rule passes ``code_digest("edit/edit_cell")`` as a parameter: editing a file that the script reaches changes the digest
and reruns exactly the jobs of the rules that reach it; touching a file changes nothing. A script reaches

- the modules of this repository that it imports anywhere in its source, also inside of functions, with their packages;
- the functions that it names as text, ``"editlab.module:function"`` (:mod:`editlab.files.worker`);
- what these reach in turn.

Where a module is chosen by a name that only the workflow knows (the topic of a figure), the rule gives it beside the script.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from pathlib import Path

HOME = Path(__file__).parents[2]  # the checkout
SCRIPTS = "workflow_scripts"
PACKAGES = ("editlab", "benchmarks")
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement holds statements
_NAMED = re.compile(r"""["'](editlab(?:\.\w+)+):\w+["']""")


@functools.cache
def source_file(name: str) -> Path | None:
    """Source of a module (``"editlab.moments.stored"``) or of a script (``"edit/edit_cell"``); None: there is none."""
    if name.split(".")[0] in PACKAGES:
        base = HOME.joinpath(*name.split("."))
        candidates = [base.with_name(f"{base.name}.py"), base / "__init__.py"]
    else:
        candidates = [HOME / SCRIPTS / f"{name}.py"]
    return next((file for file in candidates if file.is_file()), None)


@functools.cache
def _source(name: str) -> bytes:
    file = source_file(name)
    if file is None:
        raise ValueError(f"{name!r} is neither a module of {' or '.join(PACKAGES)} nor a script in {SCRIPTS}")
    return file.read_bytes()


@functools.cache
def direct_reach(name: str) -> frozenset[str]:
    """Modules and scripts that ``name`` imports or names, and the packages that lie around it.

    Raises:
        ValueError: there is no such source, or it takes from ``editlab`` what only a running program can find.
    """
    source = _source(name).decode("utf-8")
    found = {named for named in _NAMED.findall(source) if source_file(named)}
    for node in _runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= _imported_from(name, node.module, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if _is_ours(alias.name)}
    for module in [m for m in (name, *found) if m.split(".")[0] in PACKAGES]:
        found |= {p for p in _packages(module) if source_file(p)}
    return frozenset(found - {name})


def _imported_from(name: str, module: str, names: list[str]) -> set[str]:
    if not _is_ours(module):
        return set()
    inner = {f"{module}.{n}" for n in names if "." in module or module in PACKAGES}
    modules = {m for m in inner if source_file(m)}
    if module == "editlab" and (lazy := {m for m in inner - modules if not m.startswith("editlab.__")}):
        raise ValueError(f"{name}: import {', '.join(sorted(lazy))} from its own module; no digest would cover it")
    return modules | {module}


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES or ("." not in module and source_file(module) is not None)


def _packages(module: str) -> list[str]:
    """The packages around a module, which Python runs first."""
    parts = module.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def _runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    """All statements but those of type-checking blocks. An import is a statement, so expressions are not entered."""
    nodes: list[ast.AST] = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        nodes.append(node)
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for field in ("orelse",) if guarded else _BODIES:
            stack.extend(getattr(node, field, ()))
    return nodes


def reach(*names: str) -> list[str]:
    """Modules and scripts, and everything that they reach, sorted."""
    seen: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(direct_reach(name))
    return sorted(seen)


@functools.cache
def code_digest(script: str, *modules: str) -> str:
    """A digest (16 hex characters) over all that a script reaches, after the names: ``"edit/edit_cell:0123456789abcdef"``.

    Args:
        script: below ``workflow_scripts``, without its suffix.
        modules: further modules that its job runs, which the script chooses by a parameter.
    """
    digest = hashlib.sha256()
    for name in reach(script, *modules):
        digest.update(f"{name}\0".encode() + _source(name))
    return f"{','.join((script, *modules))}:{digest.hexdigest()[:16]}"


def code_changed(recorded: str) -> bool:
    """Whether the sources behind a digest of :func:`code_digest` are others now, or gone."""
    names = recorded.partition(":")[0].split(",")
    try:
        return code_digest(*names) != recorded
    except (ValueError, OSError):
        return True
