"""The benchmarks, in the order in which they run, and where their results go."""

from pathlib import Path

NAMES = ("targets", "solve", "evaluation", "stream_memory", "many_cells", "planning", "cell_split", "fuzz")
SHOWN = (*NAMES, "soak")  # the soak takes as long as several studies: make soak
RESULTS = Path("results/benchmarks")
