"""The benchmarks, in the order in which they run, and where their results go."""

from pathlib import Path

NAMES = (
    "targets",
    "solve",
    "history",
    "evaluation",
    "stream_memory",
    "memory_lookup",
    "many_cells",
    "planning",
    "cell_split",
    "fuzz",
)
BY_REQUEST = ("full_size",)  # needs a GPU: make bench-gpu
SHOWN = (*NAMES, *BY_REQUEST, "soak")  # the soak takes as long as several studies: make soak
RESULTS = Path("results/benchmarks")
