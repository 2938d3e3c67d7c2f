"""What a memory of thousands of facts costs the model that reads it: the same work without one, in turn.

Keys and residuals of real prompts at the last block. Three loads: prompts scored for a target, prompts continued by greedy
decoding, and running text. ``prompt`` reads the memory once a prompt, ``everywhere`` at every token; ``unedited`` has none.
Nothing has to fire: what costs is the product with all keys, and it is made before that is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.common import Timing, alternate, subject, threads
from editlab.data import neutral_sentences
from editlab.data.requests import EditRequest
from editlab.editing.gate import token_keys
from editlab.evaluation.generation import continue_prompts
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.scoring import score_targets
from editlab.networks.architectures import Architecture
from editlab.networks.lookup import attach
from editlab.networks.memory import Memory, StoredFact

GATE = 0.8
NEW_TOKENS = 16


def run(*, quick: bool = False) -> dict[str, Any]:
    """CPU time of three loads with 960 and 5,000 facts over that without a memory."""
    sizes, prompts, rounds = ((20,), 8, 2) if quick else ((960, 5000), 256, 15)
    found = subject(40 if quick else 1000)
    with threads(1):
        loads = _loads(found.model, found.requests[:prompts])
        return {
            "model": found.description,
            "threads": 1,
            "prompts": prompts,
            "new_tokens": NEW_TOKENS,
            "added_share": {
                str(size): {
                    name: _added(found.model, found.requests, size, load, rounds) for name, load in loads.items()
                }
                for size in sizes
            },
        }


def _loads(model: Any, requests: Sequence[EditRequest]) -> dict[str, Callable[[], Any]]:
    pairs = [(r.rewrite_prompt, r.target_true) for r in requests]
    prompts, texts = [prompt for prompt, _ in pairs], neutral_sentences(len(pairs), seed=3)
    return {
        "scored": lambda: score_targets(model, pairs),
        "written": lambda: continue_prompts(model, prompts, NEW_TOKENS),
        "written_one_by_one": lambda: [continue_prompts(model, [prompt], NEW_TOKENS) for prompt in prompts[:8]],
        "text": lambda: perplexity(model, texts),
    }


def _added(
    model: Any, requests: Sequence[EditRequest], size: int, load: Callable[[], Any], rounds: int
) -> dict[str, dict[str, float]]:
    """By place of the lookup: CPU time over that without a memory, less one; least times, and the median over rounds."""

    architecture = Architecture(model)
    layer = architecture.num_layers - 1

    def remembered(everywhere: bool) -> Callable[[], Any]:
        memory = _memory(model, requests, layer, size, everywhere=everywhere)

        def work() -> Any:
            lookup, detach = attach(architecture, layer)
            lookup.memory = memory
            try:
                return load()
            finally:
                detach()

        return work

    times = alternate({"unedited": load, "prompt": remembered(False), "everywhere": remembered(True)}, rounds)
    return {name: _share(times[name], times["unedited"]) for name in ("prompt", "everywhere")}


def _share(more: Timing, less: Timing) -> dict[str, float]:
    pairs = [a / b - 1 for a, b in zip(more.cpu, less.cpu, strict=True)]
    return {"least": round(min(more.cpu) / min(less.cpu) - 1, 3), "median": round(statistics.median(pairs), 3)}


def _memory(model: Any, requests: Sequence[EditRequest], layer: int, size: int, *, everywhere: bool) -> Memory:
    """So many entries with keys of real prompts: of rewrites first, then of other wordings."""
    prompts = [r.rewrite_prompt for r in requests] + [p for r in requests for p in r.paraphrase_prompts]
    if len(prompts) < size:
        raise ValueError(f"memory_lookup: {len(prompts)} prompts for {size} facts")
    keys = torch.cat([token_keys(model, layer, [prompt])[-1:] for prompt in prompts[:size]])
    d_out = Architecture(model).weight_shape(layer)[0]
    residuals = torch.randn(d_out, size, generator=torch.Generator().manual_seed(0))
    facts = [StoredFact(str(i), str(i), "", str(i)) for i in range(size)]
    return Memory.of(keys.T, residuals, GATE, facts, everywhere=everywhere)
