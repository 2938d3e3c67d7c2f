"""The benchmarks, in the order in which they run, and where their results go."""

from pathlib import Path

NAMES = ("targets", "solve", "evaluation", "stream_memory", "cell_split")
RESULTS = Path("results/benchmarks")
