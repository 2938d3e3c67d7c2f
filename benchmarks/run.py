"""Run the benchmarks and write ``results/benchmarks/*.json``: ``python -m benchmarks.run [--quick] [names ...]``.

Each runs in a process of its own, so that none inherits the memory or the warm caches of another; then the table in the
README is written anew.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import table
from benchmarks.names import BY_REQUEST, NAMES, RESULTS


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen benchmarks (default: all); the exit status is 1 when one failed."""
    known = (*NAMES, *BY_REQUEST)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure speed and memory.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"which ones: {', '.join(known)} (default: all but {', '.join(BY_REQUEST)})",
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes: does everything run?")
    parser.add_argument("--directory", type=Path, default=RESULTS, help="where the JSON files go")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="whose table is rewritten")
    parser.add_argument("--here", action="store_true", help="in this process, without the table")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"{unknown[0]!r} is not a benchmark; one of {', '.join(known)}")
    names = list(dict.fromkeys(chosen.names)) or list(NAMES)
    if chosen.here:
        for name in names:
            measure(name, chosen.directory, quick=chosen.quick)
        return 0
    failed = [name for name in names if _child(name, chosen.directory, quick=chosen.quick)]
    if not chosen.quick:
        table.update(chosen.readme, chosen.directory)
    print(table.render(chosen.directory))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure(name: str, directory: Path, *, quick: bool) -> Path:
    """Run one benchmark in this process and save what it found."""
    from benchmarks.common import write

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    started = time.perf_counter()
    values = importlib.import_module(f"benchmarks.{name}").run(quick=quick)
    return write(name, {"quick": quick, "seconds_taken": round(time.perf_counter() - started, 1), **values}, directory)


def _child(name: str, directory: Path, *, quick: bool) -> int:
    print(f"{name} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.run", "--here", name, "--directory", str(directory)]
    return subprocess.run([*command, "--quick"] if quick else command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
