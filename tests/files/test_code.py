"""The digest of a rule's code: it covers what the rule's script reaches, found from the sources, and nothing else."""

from __future__ import annotations

import importlib.util
import modulefinder
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from editlab.files import code
from editlab.files.code import HOME, code_changed, code_digest, direct_reach, reach, source_file

SCRIPTS = sorted(
    str(p.relative_to(HOME / "workflow_scripts").with_suffix(""))
    for p in HOME.joinpath("workflow_scripts").rglob("*.py")
)
RULES = sorted(HOME.joinpath("rules").rglob("*.smk"))


def copied_code(folder: Path):
    """``editlab.files.code`` of a copy of the checkout, freshly loaded."""
    for part in ("editlab", "workflow_scripts", "benchmarks"):
        if not (folder / part).exists():
            shutil.copytree(HOME / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    specification = importlib.util.spec_from_file_location("copied_code", folder / "editlab" / "files" / "code.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def blocks() -> list[str]:
    """Every rule of the workflow that runs a script, as text."""
    texts = [re.split(r"\n(?=(?: *)(?:(?:use )?rule|checkpoint) )", file.read_text(encoding="utf-8")) for file in RULES]
    return [block for text in texts for block in text if re.search(r"^ +script:", block, re.M)]


def test_every_rule_has_the_digest_of_the_script_that_it_runs():
    assert len(blocks()) > 20
    for block in blocks():
        (script,) = re.findall(r'script:\n\s+"(?:\.\./)+workflow_scripts/([\w/]+)\.py"', block)
        digests = re.findall(r'code_(?:digest|of)\(\s*"([\w/]+)"', block)
        assert digests == [script], block.split("\n")[0]


def test_a_rule_that_takes_over_another_keeps_its_digest():
    for file in RULES:
        for block in re.split(r"\n(?=use rule )", file.read_text(encoding="utf-8"))[1:]:
            if re.search(r"^    params:", block, re.M):
                assert "code_digest(" in block, block.split("\n")[0]


def test_what_a_script_reaches():
    cell = set(reach("edit/edit_cell"))
    assert {"edit/edit_cell", "common", "watchdog", "editlab.files.worker"} <= cell
    assert {"editlab.editing.cell", "editlab.editing.stream", "editlab.data.corpus", "editlab.data.facts"} <= cell
    assert "editlab" in cell  # a package runs before its modules
    assert "editlab.training.substrate" not in cell
    assert "editlab.files.artifacts" in direct_reach("editlab.data.requests")  # imported inside a function
    assert "editlab.config.edit" in direct_reach("editlab.config.studies")  # named as text
    with pytest.raises(ValueError, match="neither a module"):
        code_digest("edit/nothing")


def test_figures_and_tables_load_no_torch():
    import ast

    heavy = {"torch", "transformers", "peft"}
    for name in (n for n in reach("draw_figure", "make_table") if source_file(n)):
        for node in ast.parse(source_file(name).read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not heavy & {n.split(".")[0] for n in names}, name


def test_a_changed_constant_changes_the_digests_of_those_that_reach_it_and_no_others(monkeypatch):
    """Mutation: every module in turn."""
    kept = code._source
    before = {script: code_digest(script) for script in SCRIPTS}
    reached = {script: reach(script) for script in SCRIPTS}
    modules = sorted(set().union(*reached.values()))
    assert len(modules) > 60
    for mutated in modules:
        with monkeypatch.context() as patch:
            patch.setattr(code, "_source", lambda name, m=mutated: kept(name) + b"MUTATED = 1\n" * (name == m))
            patch.setattr(code, "reach", lambda script: reached[script])
            for script in SCRIPTS:
                changed = code_digest.__wrapped__(script) != before[script]
                assert changed == (mutated in reached[script]), (mutated, script)


def test_a_touch_changes_nothing(tmp_path):
    first = copied_code(tmp_path).code_digest("edit/edit_cell")
    os.utime(tmp_path / "editlab" / "algebra" / "spd.py", (time.time() + 9, time.time() + 9))
    assert copied_code(tmp_path).code_digest("edit/edit_cell") == first == code_digest("edit/edit_cell")


@pytest.mark.parametrize("script", ["edit/edit_cell", "edit/train_substrate", "write_paper", "draw_figure"])
def test_nothing_that_python_finds_is_left_out(script):
    """Python's own ``modulefinder`` reads byte code, and so knows nothing of the reader that is tested."""
    finder = modulefinder.ModuleFinder(path=[str(HOME), str(HOME / "workflow_scripts")])
    finder.run_script(str(source_file(script)))
    found = {n for n in finder.modules if n.split(".")[0] in ("editlab", "benchmarks", "common", "watchdog")}
    assert found - set(reach(script)) <= only_for_types(found), script


def only_for_types(names: set[str]) -> set[str]:
    """Modules that some source imports for its annotations alone, and what only they reach."""
    guarded = set()
    for name in names:
        text = source_file(name).read_text(encoding="utf-8")
        for block in re.findall(r"^if TYPE_CHECKING:\n((?:(?:    .*)?\n)+)", text, re.M):
            guarded |= set(re.findall(r"from (editlab[\w.]*) import", block))
    return set(reach(*guarded)) if guarded else set()


def test_what_was_recorded_is_compared_with_what_is_there(tmp_path):
    assert not code_changed(code_digest("edit/edit_cell", "editlab.moments.collection"))
    for other in ("edit/edit_cell:0000000000000000", "edit/gone:0", "x", ""):
        assert code_changed(other)


def test_names_that_only_a_running_program_can_find_are_refused(tmp_path):
    copy = copied_code(tmp_path)
    (tmp_path / "workflow_scripts" / "lazy.py").write_text("from editlab import edit\n")
    with pytest.raises(ValueError, match=r"lazy: import editlab\.edit from its own module"):
        copy.code_digest("lazy")
