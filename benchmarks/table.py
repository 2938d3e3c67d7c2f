"""The benchmarks as one Markdown table, put between two markers of the README: ``python -m benchmarks.table``.

A README without the markers is left alone. Only finished runs at full size are shown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.names import RESULTS, SHOWN

START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
Row = tuple[str, str]


def render(directory: Path = RESULTS, earlier: str = "") -> str:
    """Markdown: one row a number, then the machines that they were measured on.

    Args:
        earlier: such a table; of benchmarks that were not run again it keeps its rows.
    """
    rows: list[Row] = []
    lines = re.findall(r"^Measured on (.*?)\. Again", earlier, re.M)
    machines = dict.fromkeys(machine for line in lines for machine in line.split("; "))
    kept = re.findall(r"^\| (.*?) \| (.*) \|$", earlier, re.M)
    for name in SHOWN:
        found = _read(directory / f"{name}.json")
        if found is not None:
            rows += _ROWS[name](found)
            machines[_machine(found["machine"])] = None
        else:
            rows += [row for row in kept if _WORDS[name] in row[0]] or _absent(name)
    if all(value == "not measured" for _, value in rows):
        return "No benchmark has been run: `make bench`."
    lines = ["| what | measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}. Again: `make bench`."])


def update(readme: Path, directory: Path = RESULTS) -> bool:
    """Rewrite the README's block; False, and nothing done, without a README, its two markers, or any result."""
    from editlab.files.artifacts import write_text

    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    start, end = text.find(START), text.find(END)
    measured = any(_read(directory / f"{name}.json") for name in SHOWN)
    if start < 0 or end < start or not measured:
        return False
    block = slice(start + len(START), end)
    write_text(readme, f"{text[: block.start]}\n{render(directory, text[block])}\n{text[block.stop :]}")
    return True


def _absent(name: str) -> list[Row]:
    return [(_ABSENT[name], "not measured")] if name in _ABSENT else []


def _read(path: Path) -> dict[str, Any] | None:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return None if found is None or found.get("quick") else found


def _machine(machine: dict[str, Any]) -> str:
    versions = machine["versions"]
    processor = str(machine["processor"]).replace("|", "/")
    return f"{processor}, {machine['cores']} cores, Python {versions['python']}, torch {versions['torch']}"


def _targets(found: dict[str, Any]) -> list[Row]:
    each, speedup = found["cpu_ms_per_fact"], found["speedup"]
    size = f"{found['facts']} facts, {found['contexts']} contexts, at most {found['evaluations']} evaluations"
    times = f"{each['batched']:.1f} ms CPU a fact against {each['one_by_one']:.1f} ms"
    agreement = f"{found['agreement']['relative_error_max']:.0e}"
    return [
        (
            f"Targets, batched against one by one ({size}, layer {found['layer']}, 1 thread; {found['model']})",
            f"**{speedup['cpu_median']:.1f} times less CPU** ({times}; same steps, relative difference {agreement}); "
            f"at layer 0 {found['layer_0']['speedup']['cpu_median']:.1f} times",
        )
    ]


def _solve(found: dict[str, Any]) -> list[Row]:
    rows = []
    for layer in found["layers"]:
        few, many = layer["rows"][0], layer["rows"][-1]
        text = ", ".join(
            f"n = {row['facts']}: {1000 * row['seconds']['woodbury']['cpu_min']:.1f} ms "
            f"({row['speedup']['cpu_median']:.1f} times less than d x d)"
            for row in (few, many)
        )
        rows.append(
            (
                f"Solve, n x n form, d_in = {layer['d_in']}",
                f"{text}; log-log slope in n {layer['slope']['woodbury']:.2f}",
            )
        )
    return rows


def _history(found: dict[str, Any]) -> list[Row]:
    seconds = {name: found["seconds"][name]["cpu_min"] for name in ("alphaedit", "memit")}
    what = f"Solve of AlphaEdit with {found['earlier_keys']:,} earlier keys against MEMIT's, which has none"
    size = f"d_in = {found['d_in']:,}, {found['facts']} facts, 1 thread"
    times = f"{seconds['alphaedit']:.2f} s against {seconds['memit']:.2f} s; d x d, factored anew: {found['dense_cpu']:.1f} s"
    return [(f"{what} ({size})", f"**{found['alphaedit_to_memit']['cpu_median']:.1f} times** ({times})")]


def _evaluation(found: dict[str, Any]) -> list[Row]:
    text = ", ".join(
        f"{values['prompts_per_second']:,.0f} prompts/s on {count} thread{'s' if count != '1' else ''}"
        for count, values in sorted(found["by_threads"].items())
    )
    return [(f"Evaluation of {found['facts']:,} facts x 13 prompts ({found['distinct']:,} distinct)", text)]


def _stream_memory(found: dict[str, Any]) -> list[Row]:
    setting = f"{found['edits']:,} edits, batches of {found['batch']}, {found['solver']} with replay {found['replay']}"
    growth = f"{found['mib_per_1000_edits']:+.1f} MiB per 1,000 edits; peak {found['peak_mib']:,.0f} MiB"
    return [(f"Resident memory along a stream ({setting})", growth)]


def _memory_lookup(found: dict[str, Any]) -> list[Row]:
    rows = []
    for size, loads in found["added_share"].items():
        text = "; ".join(
            f"{name.replace('_', ' ')} {100 * by['prompt']['median']:+.0f} % ({100 * by['everywhere']['median']:+.0f} % read "
            "at every token)"
            for name, by in loads.items()
        )
        what = f"CPU time that a memory of {int(size):,} facts adds to its model ({found['prompts']} prompts, 1 thread)"
        rows.append((what, text))
    return rows


def _many_cells(found: dict[str, Any]) -> list[Row]:
    seconds, cells = found["seconds_a_cell"], found["cells"]
    text = f"{seconds['warm_worker']:.2f} s a cell against {seconds['own_process']:.2f} s"
    what = f"{cells['warm_worker']} tiny cells on {found['cores']} cores, forked from one warm process"
    against = f"a process for each of {cells['own_process']}"
    return [(f"{what}, against {against}", f"**{100 * found['share']:.0f} % of the time** ({text})")]


def _planning(found: dict[str, Any]) -> list[Row]:
    wall = {mode: min(seconds) for mode, seconds in found["wall_seconds"].items()}
    text = f"**{wall['planned']:.1f} s**; {wall['listed']:.1f} s with the list of all jobs ({found['peak_mib']} MiB)"
    return [(f"Planning {found['cells']:,} cells, from the command to its exit (least of {found['rounds']})", text)]


def _cell_split(found: dict[str, Any]) -> list[Row]:
    rows = []
    for method, split in found["methods"].items():
        stages = sorted(split["cpu_share"].items(), key=lambda item: -item[1])
        text = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in stages if share >= 0.005)
        count = f"{split['cells']} cell{'s' if split['cells'] != 1 else ''}, {split['edits']} edits"
        rows.append((f"CPU time of a cell of {method} ({count})", text))
    return rows


def _fuzz(found: dict[str, Any]) -> list[Row]:
    readers = found["readers"]
    refused = sum(sum(reader["refused"].values()) for reader in readers.values())
    names = ", ".join(f"{name} {reader['inputs']:,}" for name, reader in readers.items())
    text = f"{found['inputs']:,} inputs: {refused:,} refused with a documented error in one line, the others read"
    return [(f"Broken input to the readers of files ({names})", f"**no other exception** ({text})")]


def _soak(found: dict[str, Any]) -> list[Row]:
    kinds = Counter(kill["kind"] for kill in found["kills"])
    text = ", ".join(f"{kinds[kind]} of {kind}" for kind in ("everything", "snakemake", "job") if kinds[kind])
    same = "the same files, byte for byte" if not found["differences"] else f"{len(found['differences'])} files differ"
    what = (
        f"`kill -9` at {len(found['kills'])} random moments of {found['jobs']} jobs ({text}), a plain start after each"
    )
    bad = found["damaged"] + found["unlike_provenance"]
    return [(what, f"**{same}** as an undisturbed run; {bad} damaged files accepted")]


def _full_size(found: dict[str, Any]) -> list[Row]:
    rows = []
    for model in found["models"]:
        name = f"{model['model']} ({model['dtype']}{', TF32' if model['tf32'] else ''})"
        for cell in model["cells"]:
            setting = f"{name}, {cell['method']}, batch {cell['batch']:,}; {found['device']}"
            stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in cell["seconds_by_stage"].items())
            text = f"{cell['times_faster']:.0f} x the one-by-one loop; {cell['peak_memory_mb'] / 1000:.1f} GB; {stages}"
            rows.append((f"Full size: {setting}", f"**{cell['seconds_an_edit']:.3f} s an edit** ({text})"))
    return rows


_WORDS = {  # of the rows of each, and of no other
    "targets": "Targets, batched", "solve": "Solve, n x n form", "history": "Solve of AlphaEdit", "evaluation": "Evaluation of",
    "stream_memory": "Resident memory", "memory_lookup": "CPU time that a memory", "many_cells": "tiny cells on",
    "planning": "Planning", "cell_split": "CPU time of a cell", "fuzz": "Broken input", "full_size": "Full size:",
    "soak": "`kill -9`",
}  # fmt: skip
_ABSENT = {"full_size": "Full size: GPT-2 XL, GPT-J and Llama 3 on one GPU (`make bench-gpu`)"}
_ROWS: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "targets": _targets,
    "solve": _solve,
    "history": _history,
    "evaluation": _evaluation,
    "stream_memory": _stream_memory,
    "memory_lookup": _memory_lookup,
    "many_cells": _many_cells,
    "planning": _planning,
    "cell_split": _cell_split,
    "fuzz": _fuzz,
    "full_size": _full_size,
    "soak": _soak,
}

if __name__ == "__main__":
    update(Path("README.md"))
    print(render())
