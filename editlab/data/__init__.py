"""Data sets as lists of :class:`~editlab.data.requests.EditRequest`, and what follows from such a list.

Every data set, generated or read, has CounterFact's schema. :func:`load_requests` reads a file of any supported layout;
:func:`true_statements` is the world before the edits, on which a small model can be trained so that it *knows* the
facts; :func:`sample_requests` draws the facts to edit, :func:`batches` cuts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from editlab.data.facts import make_facts
from editlab.data.fields import PLACEHOLDER
from editlab.data.forms import load_requests, read_dataset
from editlab.data.neutral import neutral_sentences, read_text
from editlab.data.requests import EditRequest
from editlab.errors import ConfigError, DataError
from editlab.randomness import python_rng

__all__ = [
    "batches",
    "load_requests",
    "make_facts",
    "neutral_sentences",
    "read_dataset",
    "read_text",
    "sample_requests",
    "true_statements",
]


def true_statements(requests: Iterable[EditRequest]) -> list[tuple[str, str]]:
    """Every statement that holds before the edits, as (prompt, completion) pairs without repetition.

    Rewrite and paraphrase prompts complete to ``target_true``, neighbourhood prompts to their right answer and
    attribute prompts (subjects of which ``target_new`` is true) to ``target_new``; the conditions of probes hold too. A
    prompt occurs once: where records
    contradict each other the first of rewrites, paraphrases, neighbours, attributes, in file order, wins and the others
    are left out, and so are those of records that do not know a true object. The order is that of the requests within
    each of these groups.
    """
    requests = list(requests)
    statements: dict[str, str] = {}
    for request in requests:
        statements.setdefault(request.rewrite_prompt, request.target_true)
    for request in requests:
        for prompt in request.paraphrase_prompts:
            statements.setdefault(prompt, request.target_true)
    for request in requests:
        for prompt, target in request.neighbors():
            statements.setdefault(prompt, target)
    for request in requests:
        for prompt in request.attribute_prompts:
            statements.setdefault(prompt, request.target_new)
    for request in requests:
        for question in (q for probe in request.probes for q in probe.conditions):
            statements.setdefault(question.prompt, question.answer)
    return [(prompt, target) for prompt, target in statements.items() if target != PLACEHOLDER]


def sample_requests(requests: Sequence[EditRequest], count: int, seed: int) -> list[EditRequest]:
    """Draw ``count`` requests in an order that depends on the seed and not on the file's order.

    Subjects come in rounds: no subject is drawn a second time before every subject was drawn once, so that a batch hardly
    ever holds two facts of one subject, which share their key. Requests of one group stay together. A smaller sample is
    the head of a larger one of the same seed.

    Raises:
        DataError: fewer requests are available.
        ConfigError: ``count`` is negative.
    """
    if count < 0:
        raise ConfigError(f"count: {count} is not allowed; it must be 0 or more")
    if len(requests) < count:
        raise DataError(f"{count} requests asked for, but only {len(requests)} are available")
    pool = sorted(requests, key=lambda request: request.case_id)
    python_rng("sample_requests", seed).shuffle(pool)
    seen: dict[str, int] = {}
    rounds = []
    for request in pool:
        seen[request.subject] = seen.get(request.subject, -1) + 1
        rounds.append(seen[request.subject])
    ordered = [pool[i] for i in sorted(range(len(pool)), key=lambda i: rounds[i])]
    return _with_groups(ordered, count) if any(request.group for request in pool) else ordered[:count]


def batches(requests: Sequence[EditRequest], size: int) -> Iterator[list[EditRequest]]:
    """Consecutive batches of ``size`` requests; the last may be smaller.

    Raises:
        ConfigError: ``size`` is not a whole number of at least 1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"batch: {size!r} is not allowed; a whole number >= 1")
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def _with_groups(ordered: Sequence[EditRequest], count: int) -> list[EditRequest]:
    """The first ``count`` requests, those of a group together; a group that does not fit whole gives its first ones."""
    groups: dict[str, list[EditRequest]] = {}
    for request in ordered:
        groups.setdefault(f"group {request.group}" if request.group else f"case {request.case_id}", []).append(request)
    members = [r for group in groups.values() for r in sorted(group, key=lambda request: request.case_id)]
    return members[:count]
