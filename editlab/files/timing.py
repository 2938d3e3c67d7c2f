"""Wall and CPU seconds by stage, and the peak memory of the process: measured beside results, never inside them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Adds up wall and CPU seconds under stage names; stages do not overlap."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def seconds(self) -> dict[str, dict[str, float]]:
        """``{stage: {"wall": s, "cpu": s}}``, rounded to milliseconds."""
        return {name: {"wall": round(self.wall[name], 3), "cpu": round(self.cpu[name], 3)} for name in self.wall}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MiB (0 where the platform does not tell)."""
    try:
        import resource
    except ImportError:  # pragma: no cover - not on Unix
        return 0.0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024) if sys.platform == "darwin" else peak / 1024
