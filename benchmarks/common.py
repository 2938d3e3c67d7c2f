"""What the benchmarks share: the model and facts that they run on, and a clock that compares two things fairly.

Two candidates are timed in turn, A B A B ..., so that a machine that slows down or is shared hurts both alike. CPU
seconds count what was computed, whoever else was running; wall seconds what a user waits for. The least of several
repetitions is the cleanest number, the median the typical one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from editlab.algebra.second_moment import SecondMoment
from editlab.data import load_requests, make_facts, neutral_sentences, true_statements
from editlab.data.requests import EditRequest
from editlab.files.artifacts import record_of, versions, write_json
from editlab.networks.loading import load_model
from editlab.training.substrate import train_tokenizer

RESULTS = Path("results/benchmarks")
MODEL = Path("results/models/substrate")
REQUESTS = Path("results/data/facts/requests.json")
CONTEXTS = (("{}",), ("The old town was quiet. {}", "It is well known that in the end {}"))
SHAPE: dict[str, Any] = {  # the substrate's
    "n_layer": 4,
    "n_embd": 128,
    "n_head": 4,
    "n_inner": 512,
    "n_positions": 96,
    "activation_function": "gelu_pytorch_tanh",
}
VOCABULARY = 1500


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with the facts that a benchmark edits or scores.

    Attributes:
        trained: the workflow's substrate, which knows the facts; else random weights of the same shape.
    """

    model: Any
    requests: list[EditRequest]
    trained: bool

    @property
    def description(self) -> str:
        """One line for the record."""
        config = self.model.config
        inner = config.n_inner or 4 * config.n_embd
        shape = f"GPT-2, {config.n_layer} layers x {config.n_embd}, inner {inner}, {config.vocab_size} tokens"
        return f"{shape}; {'trained substrate' if self.trained else 'random weights'}"


def subject(facts: int, root: Path = Path()) -> Subject:
    """The trained substrate and its facts where the workflow has made them, else a random one on generated facts."""
    model, requests = root / MODEL, root / REQUESTS
    if (model / "config.json").is_file() and requests.is_file():
        known = load_requests(requests)
        if len(known) >= facts:
            return Subject(load_model(model), known[:facts], True)
    made = make_facts(max(facts, 220), seed=1)
    return Subject(random_model(made), made[:facts], False)


def random_model(requests: list[EditRequest], seed: int = 0) -> Any:
    """A GPT-2 of the substrate's shape with random weights and a BPE of the facts' statements."""
    from transformers import GPT2Config, GPT2LMHeadModel

    statements = [f"{prompt} {target}" for prompt, target in true_statements(requests)]
    tokenizer = train_tokenizer(statements + neutral_sentences(500, seed=1), VOCABULARY)
    end = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=len(tokenizer), initializer_range=0.08, bos_token_id=end, eos_token_id=end, **SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    model.tokenizer = tokenizer
    return model.eval()


def second_moment(model: Any, layer: int, tokens: int = 5000) -> SecondMoment:
    """(d_in, d_in) of the keys over neutral text, with a little identity so that any amount of text will do."""
    from editlab.moments.collection import collect_second_moments

    texts = neutral_sentences(tokens // 10, seed=2)
    found = collect_second_moments(model, texts, [layer], tokens=tokens, progress=False)[layer]
    return found.shifted(1e-2 * float(found.matrix.diagonal().mean()))


def random_moment(d_in: int, seed: int = 0) -> SecondMoment:
    """A well-conditioned second moment (d_in, d_in) with its Cholesky factor, as the statistics file has it."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(d_in, 64, dtype=torch.float64, generator=generator)
    matrix = sample @ sample.T / 64
    matrix.diagonal().add_(1.0)
    return SecondMoment(matrix, 64, cholesky=torch.linalg.cholesky(matrix))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of every repetition of one candidate."""

    cpu: list[float]
    wall: list[float]

    def summary(self) -> dict[str, float]:
        """Least and median seconds."""
        return {
            f"{kind}_{name}": round(choose(values), 6)
            for kind, values in (("cpu", self.cpu), ("wall", self.wall))
            for name, choose in (("min", min), ("median", statistics.median))
        }


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """(CPU seconds, wall seconds, result) of one call; the garbage of earlier ones is collected first."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    result = function()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def alternate(candidates: Mapping[str, Callable[[], Any]], repetitions: int, warmup: int = 1) -> dict[str, Timing]:
    """Time the candidates in turn, ``repetitions`` rounds after ``warmup`` rounds that do not count."""
    found: dict[str, Timing] = {name: Timing([], []) for name in candidates}
    for number in range(warmup + repetitions):
        for name, function in candidates.items():
            cpu, wall, _ = timed(function)
            if number >= warmup:
                found[name].cpu.append(cpu)
                found[name].wall.append(wall)
    return found


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """How many times less CPU and wall time ``fast`` takes; the median is over pairs timed one after the other."""
    return {
        "cpu_min": round(min(slow.cpu) / min(fast.cpu), 2),
        "cpu_median": round(statistics.median(a / b for a, b in zip(slow.cpu, fast.cpu, strict=True)), 2),
        "wall_min": round(min(slow.wall) / min(fast.wall), 2),
        "wall_median": round(statistics.median(a / b for a, b in zip(slow.wall, fast.wall, strict=True)), 2),
    }


def write(name: str, values: Mapping[str, Any], directory: Path) -> Path:
    """Save one benchmark with the machine that it ran on."""
    path = directory / f"{name}.json"
    record_of(path).unlink(missing_ok=True)  # of what the workflow measured for its report
    write_json(path, {"benchmark": name, "machine": machine(), **values})
    return path


def machine() -> dict[str, Any]:
    """Processor, number of cores and library versions."""
    return {"processor": _processor(), "cores": os.cpu_count(), "versions": versions()}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
