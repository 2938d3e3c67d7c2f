"""Evaluation throughput: prompts a second for 1,000 facts x 13 prompts (1 rewrite, 2 paraphrase, 10 neighbourhood).

Every prompt is scored for two targets (new and true). Prompts that several facts share run once; both the number asked
for and the number of distinct ones are given, the rate counts the prompts asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.common import Timing, subject, threads, timed
from editlab.data.requests import EditRequest
from editlab.evaluation.scoring import PROBES, score_requests

PARAPHRASES, NEIGHBORS = 2, 10


def run(*, quick: bool = False) -> dict[str, Any]:
    """Prompts a second on one and on two threads."""
    facts, repetitions = (4, 1) if quick else (1000, 2)
    found = subject(facts)
    requests = [_as_counterfact(request) for request in found.requests]
    asked, distinct = _count(requests)
    result: dict[str, Any] = {"model": found.description, "facts": facts, "prompts": asked, "distinct": distinct}
    times: dict[int, Timing] = {count: Timing([], []) for count in (1, 2)}
    for number in range(repetitions + 1):
        for count, timing in times.items():
            with threads(count):
                cpu, wall, _ = timed(_scorer(found.model, requests))
            if number:
                timing.cpu.append(cpu)
                timing.wall.append(wall)
    result["by_threads"] = {
        str(count): {
            "seconds": timing.summary(),
            "prompts_per_second": round(asked / min(timing.wall), 1),
            "distinct_per_second": round(distinct / min(timing.wall), 1),
        }
        for count, timing in times.items()
    }
    return result


def _scorer(model: Any, requests: list[EditRequest]) -> Callable[[], Any]:
    return lambda: score_requests(model, requests, PROBES)


def _as_counterfact(request: EditRequest) -> EditRequest:
    """A CounterFact record has two paraphrase and ten neighbourhood prompts."""
    return dataclasses.replace(
        request,
        paraphrase_prompts=request.paraphrase_prompts[:PARAPHRASES],
        neighborhood_prompts=request.neighborhood_prompts[:NEIGHBORS],
    )


def _count(requests: list[EditRequest]) -> tuple[int, int]:
    prompts = [
        prompt for r in requests for prompt in (r.rewrite_prompt, *r.paraphrase_prompts, *(p for p, _ in r.neighbors()))
    ]
    return len(prompts), len(set(prompts))
