"""Edits at true size on one GPU: seconds an edit and peak memory, by model, method and batch, split by stage.

Models are random weights of the true configurations (nothing is downloaded; a random model never reaches the stop rule, so
every fact runs all its steps: the most that a real one costs). Second moments are random too, with the factors that a
statistics file has; their collection is timed by itself. The published way, one fact after another, runs on a few facts of the
same weights. On a machine without a GPU the same code runs on a model of four layers, and says so.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Subject, random_model
from benchmarks.published import one_by_one
from editlab.algebra.second_moment import SecondMoment
from editlab.config.base import validated
from editlab.config.models import RandomModel
from editlab.config.recipe import Recipe
from editlab.config.targets import TargetOptions
from editlab.data import make_facts, neutral_sentences
from editlab.data.requests import EditRequest
from editlab.editing.checkpoint import Checkpoint
from editlab.editing.session import EditSession
from editlab.evaluation.scoring import score_requests
from editlab.files.timing import Stopwatch, peak_memory_mb
from editlab.moments.collection import collect_second_moments
from editlab.networks.architectures import Architecture
from editlab.networks.loading import load_model
from editlab.networks.precision import float32_products
from editlab.training.random_model import write_random_model

SECONDS = 440
"""No part is begun after so many seconds: the whole stays below eight minutes."""
BATCHES = (100, 1, 1000)
METHODS = ("memit", "alphaedit")
ALONE = 3  # facts of the one-by-one loop
TOKENS = 32_768  # of the timed pass of second moments
SAMPLES = 100_000 * 200  # tokens of the published pass: texts times their mean length


@dataclasses.dataclass(frozen=True)
class Size:
    """A model of the benchmark: its shape, type, edited layers and steps, as published."""

    shape: str
    dtype: str
    layers: tuple[int, ...]
    steps: int

    @property
    def tf32(self) -> bool:
        """Whether targets (and those of the one-by-one loop) are optimised with products in TF32."""
        return self.dtype == "float32"


SIZES = (
    Size("gpt2_xl", "float32", (13, 14, 15, 16, 17), 20),
    Size("llama3_8b", "bfloat16", (4, 5, 6, 7, 8), 25),
    Size("gptj_6b", "bfloat16", (3, 4, 5, 6, 7, 8), 25),
)


def run(*, quick: bool = False) -> dict[str, Any]:
    """All models on a GPU; where there is none, or quick, four layers on the CPU."""
    started = time.perf_counter()
    facts = make_facts(220 if quick or not torch.cuda.is_available() else max(BATCHES), seed=1)

    def late() -> bool:
        return time.perf_counter() - started > SECONDS

    if quick or not torch.cuda.is_available():
        model = random_model(facts)
        small = Size("four layers", "float32", (0, 1), 3 if quick else 20)
        sizes = (2, 1) if quick else (32, 1)
        return {"device": "cpu", "models": [_measured(model, small, facts, sizes, 0.0, late)]}
    found = []
    for size in SIZES:
        if not late():
            begun = time.perf_counter()
            model = _loaded(size, facts)
            found.append(_measured(model, size, facts, BATCHES, time.perf_counter() - begun, late))
            del model
            torch.cuda.empty_cache()
    return {"device": torch.cuda.get_device_name(), "models": found}


def _loaded(size: Size, facts: list[EditRequest]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        options = RandomModel(source="random", dataset="facts", shape=size.shape)
        write_random_model(Path(folder), options, facts)
        return load_model(folder, dtype=size.dtype, device_map="auto")


def _measured(
    model: Any, size: Size, facts: list[EditRequest], batches: tuple[int, ...], load: float, late: Callable[[], bool]
) -> dict[str, Any]:
    """Everything of one model; parts that would begin too late are absent."""
    found: dict[str, Any] = {
        "model": size.shape if size.shape != "four layers" else Subject(model, [], False).description,
        "dtype": size.dtype,
        "tf32": size.tf32 and Architecture(model).device.type == "cuda",
        "layers": list(size.layers),
        "load_seconds": round(load, 2),
        "second_moments": _pass(model, size),
    }
    moments = _moments(model, size)
    found["one_by_one_seconds_an_edit"] = _alone(model, size, facts)
    found["cells"] = [
        _cell(model, size, facts[:batch], method, moments)
        for batch in batches
        for method in METHODS
        if not late() and len(facts) >= batch
    ]
    for cell in found["cells"]:
        cell["times_faster"] = round(found["one_by_one_seconds_an_edit"] / cell["seconds_an_edit"], 1)
    return found


def _synchronised(model: Any) -> float:
    if Architecture(model).device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _contexts() -> tuple[tuple[str, ...], ...]:
    """MEMIT's: the bare prompt, and five prefixes of about ten tokens."""
    prefixes = [" ".join(text.split()[:8]) for text in neutral_sentences(5, seed=4)]
    return (("{}",), tuple(f"{prefix}. {{}}" for prefix in prefixes))


def _pass(model: Any, size: Size) -> dict[str, float]:
    """One pass of second moments over the edited layers, and what the published number of tokens would take."""
    tokens = TOKENS if Architecture(model).device.type == "cuda" else 2_000
    begun = _synchronised(model)
    collect_second_moments(
        model, neutral_sentences(tokens // 8, seed=2), list(size.layers), tokens=tokens, progress=False
    )
    seconds = _synchronised(model) - begun
    return {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "published_minutes_extrapolated": round(seconds / tokens * SAMPLES / 60, 1),
    }


def _moments(model: Any, size: Size) -> dict[int, SecondMoment]:
    """C, its factor and its eigenvectors in the memory of the computer, as a statistics file gives them: a session puts on the
    GPU, for each edited layer, what its method reads."""
    architecture = Architecture(model)
    d_in, device = architecture.weight_shape(size.layers[0])[1], architecture.device
    generator = torch.Generator(device).manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d_in, d_in, dtype=torch.float64, generator=generator, device=device)).Q
    values = torch.logspace(-4, 1, d_in, dtype=torch.float64, device=device)
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    lower = torch.linalg.cholesky(matrix)
    moment = SecondMoment(matrix.cpu(), 10 * d_in, lower.cpu(), values.cpu(), basis.cpu())
    return dict.fromkeys(size.layers, moment)


def _alone(model: Any, size: Size, facts: list[EditRequest]) -> float:
    """Seconds an edit of the published target loop, one fact after another; solving and evaluating are not counted."""
    options = TargetOptions(steps=size.steps, stop_loss=0.0)
    chosen = facts[:ALONE]
    with float32_products(Architecture(model).device, tf32=size.tf32):  # as the library's
        one_by_one(model, chosen[:1], size.layers[-1], _contexts(), TargetOptions(steps=2, stop_loss=0.0))  # warm-up
        begun = _synchronised(model)
        one_by_one(model, chosen, size.layers[-1], _contexts(), options)
        return round((_synchronised(model) - begun) / len(chosen), 4)


def _recipe(method: str, size: Size) -> Recipe:
    own = {"null_space_threshold": 0.02} if method == "alphaedit" else {"second_moment_weight": 15000}
    values = {"solver": method, "layers": list(size.layers), "steps": size.steps, "stop_loss": 0.0, "tf32": size.tf32}
    values |= own
    recipe: Recipe = validated(Recipe, values, "full_size")
    return recipe


class _Synchronised(Stopwatch):
    """A stopwatch that waits for the GPU at both ends of a stage."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def stage(self, name: str) -> Any:
        _synchronised(self.model)
        return super().stage(name)


def _cell(
    model: Any, size: Size, facts: list[EditRequest], method: str, moments: Mapping[int, SecondMoment]
) -> dict[str, Any]:
    """One batch: edit, score, save, resume."""
    cuda = Architecture(model).device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    watch = _Synchronised(model)
    with _session(model, method, size, moments, watch) as session:
        begun = _synchronised(model)
        event = session.step(facts)
        edited = _synchronised(model) - begun
        with watch.stage("evaluate"):
            score_requests(model, facts)
        with watch.stage("checkpoint"), tempfile.TemporaryDirectory() as folder:
            Checkpoint.capture(session).save(Path(folder) / "state.safetensors")
            saved = Checkpoint.load(Path(folder) / "state.safetensors")
    with _session(model, method, size, moments) as again:
        resumed = _synchronised(model)
        saved.restore(again)
        resumed = _synchronised(model) - resumed
    peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else peak_memory_mb()
    return {
        "method": method,
        "batch": len(facts),
        "decision": event.decision,
        "seconds_an_edit": round(edited / len(facts), 5),
        "peak_memory_mb": round(peak),
        "seconds_by_stage": {name: round(s["wall"], 4) for name, s in watch.seconds().items()},
        "resume_seconds": round(resumed, 4),
    }


def _session(
    model: Any, method: str, size: Size, moments: Mapping[int, SecondMoment], watch: Stopwatch | None = None
) -> EditSession:
    return EditSession(model, _recipe(method, size), statistics=moments, contexts=_contexts(), stopwatch=watch)
