"""What a run of the adapters study is, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Description, Tables
from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import counted

SIZES = {"default": "12 x 8", "small": "8 x 6", "smoke": "3 x 3"}


def describe(run: Run, tables: Tables) -> Description:
    """Tasks, base, teachers and seeds of a run."""
    study = run.settings
    tasks, base, seeds = _tasks(study["tasks"]), _base(study["base"]), counted(len(study["seeds"]), "seed")
    teachers = study["teachers"]
    setting = [
        f"Tasks: {tasks}.",
        f"Base: {base}.",
        f"Teachers: LoRA of rank {teachers['rank']} on all linear maps of the blocks, {teachers['steps']} steps, from one A_0.",
        f"{seeds}; each has a split, a base and a pool of its own.".capitalize(),
    ]
    limits = [
        "The tasks are small and compose exactly; how far the results carry to tasks in free text is open.",
        f"The hyper-convolution was trained for {counted(len(study['convolution_seeds']), 'seed')}.",
    ]
    values = {
        "tasks": escape(tasks),
        "base": escape(base),
        "seeds": str(len(study["seeds"])),
        "rank": str(teachers["rank"]),
        "steps": str(teachers["steps"]),
        "probes": str(study["deltas"]["probes"]),
        "margin": f"{study['scores']['margin']:g}",
        "strings": str(study["scores"]["strings"]),
    }
    return Description(f"LoRA adapters for {tasks}", setting, limits, values)


def _tasks(tasks: Mapping[str, Any]) -> str:
    if tasks["kind"] == "letters":
        return f"{SIZES[tasks['size']]} tasks on strings of letters"
    return "tasks of a file"


def _base(base: Mapping[str, Any]) -> str:
    if base["source"] == "trained":
        seen = "never saw the held-out combinations" if base["held_out"] == "strict" else "saw all combinations"
        return f"a Llama of {base['layers']} layers and width {base['width']} that {seen}"
    return str(base["id"])
