"""Which library modules a result depends on, read from the import statements, and a digest over their source.

A rule passes ``code_digest("editing.session")`` as a parameter: editing a module of the closure changes the digest and
reruns exactly the rules that use it; touching a file changes nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement holds statements


def module_file(module: str) -> Path | None:
    """Source file of a module named relative to the package (``"edit.solvers"``), or None."""
    base = ROOT.joinpath(*module.split(".")) if module else ROOT
    for candidate in (base.with_suffix(".py") if module else base, base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def direct_imports(module: str) -> frozenset[str]:
    """Modules of this package that ``module`` imports, anywhere in its source (type-checking blocks excepted)."""
    file = module_file(module)
    if file is None:
        raise ValueError(f"editlab has no module {module!r}")
    found: set[str] = set()
    for node in _runtime_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "editlab":
            base = node.module.removeprefix("editlab").lstrip(".")
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found.update(name if module_file(name) else base for name in names)
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("editlab.") for a in node.names if a.name.startswith("editlab."))
    return frozenset(name for name in found if name and name != module)


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


def import_closure(*modules: str) -> list[str]:
    """The modules and everything they import inside the package, sorted."""
    seen: set[str] = set()
    stack = list(modules)
    while stack:
        module = stack.pop()
        if module not in seen:
            seen.add(module)
            stack.extend(direct_imports(module))
    return sorted(seen)


@functools.cache
def _source(module: str) -> bytes:
    file = module_file(module)
    assert file is not None
    return file.read_bytes()


@functools.cache
def code_digest(*modules: str) -> str:
    """The modules and a digest (16 hex characters) over their import closure: ``"edit.stream,models:0123456789abcdef"``."""
    digest = hashlib.sha256()
    for module in import_closure(*modules):
        digest.update(f"{module}\0".encode() + _source(module))
    return f"{','.join(modules)}:{digest.hexdigest()[:16]}"


def code_changed(recorded: str) -> bool:
    """Whether the sources behind a digest of :func:`code_digest` are others now, or gone."""
    modules = recorded.partition(":")[0].split(",")
    try:
        return code_digest(*modules) != recorded
    except (ValueError, OSError):
        return True
