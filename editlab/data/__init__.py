"""Data sets as lists of :class:`~editlab.data.requests.EditRequest`, and what follows from such a list.

Every data set, generated or read, has CounterFact's schema. :func:`load_requests` reads a file of any supported layout;
:func:`true_statements` is the world before the edits, on which a small model can be trained so that it *knows* the
facts; :func:`sample_requests` draws the facts to edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from editlab.data.counterfact import counterfact_request, easyedit_request, is_easyedit
from editlab.data.facts import make_facts
from editlab.data.neutral import neutral_sentences, read_text
from editlab.data.requests import EditRequest, check_unique, read_records
from editlab.data.zsre import zsre_request
from editlab.errors import ConfigError, DataError
from editlab.randomness import python_rng

__all__ = ["load_requests", "make_facts", "neutral_sentences", "read_text", "sample_requests", "true_statements"]

Kind = Literal["auto", "counterfact", "easyedit", "zsre"]
_READERS = {"counterfact": counterfact_request, "easyedit": easyedit_request, "zsre": zsre_request}


def load_requests(path: str | Path, kind: Kind = "auto") -> list[EditRequest]:
    """Read edit requests from a JSON list of records; nothing in the file is ever executed.

    Args:
        path: a local file: official CounterFact (also what :func:`~editlab.data.requests.write_requests` writes), EasyEdit's
            flat form, or zsRE in the MEND schema.
        kind: the layout; "auto" tells it from the keys of the first record.

    Raises:
        DataError: missing, empty, non-UTF-8 or non-JSON file; empty list; a record with a missing field, a prompt
            without ``{}``, an empty target or equal targets; duplicate case ids. Names the file and the record.
        ConfigError: ``kind`` is unknown.
    """
    if kind != "auto" and kind not in _READERS:
        raise ConfigError(f"kind: {kind!r} is not allowed; use one of auto, {', '.join(_READERS)}")
    records = read_records(path)
    read = _READERS[_detect(records[0], path) if kind == "auto" else kind]
    requests = [read(record, index, str(path)) for index, record in enumerate(records)]
    check_unique(requests, str(path))
    for index, request in enumerate(requests):
        if request.target_new == request.target_true:
            raise DataError(
                f"{path}: record {index} (case_id {request.case_id[:40]!r}): target_new and target_true are both "
                f"{request.target_new[:80]!r}; they must differ"
            )
    return requests


def _detect(record: Any, path: str | Path) -> str:
    if not isinstance(record, dict):
        raise DataError(f"{path}: record 0: a record must be an object, got {type(record).__name__}")
    if "requested_rewrite" in record:
        return "counterfact"
    if "src" in record:
        return "zsre"
    if is_easyedit(record):
        return "easyedit"
    keys = ", ".join(repr(str(key)[:30]) for key in list(record)[:8])
    raise DataError(
        f"{path}: record 0: unknown layout with fields [{keys}]; expected 'requested_rewrite' (CounterFact), "
        "'prompt' (EasyEdit) or 'src' (zsRE)"
    )


def true_statements(requests: Iterable[EditRequest]) -> list[tuple[str, str]]:
    """Every statement that holds before the edits, as (prompt, completion) pairs without repetition.

    Rewrite and paraphrase prompts complete to ``target_true``, neighbourhood prompts to their right answer and
    attribute prompts (subjects of which ``target_new`` is true) to ``target_new``. A prompt occurs once: where records
    contradict each other the first of rewrites, paraphrases, neighbours, attributes, in file order, wins and the others
    are left out. The order is that of the requests within each of these groups.
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
    return list(statements.items())


def sample_requests(requests: Sequence[EditRequest], count: int, seed: int) -> list[EditRequest]:
    """Draw ``count`` requests in an order that depends on the seed and not on the file's order.

    Subjects come in rounds: no subject is drawn a second time before every subject was drawn once, so that a batch hardly
    ever holds two facts of one subject, which share their key. A smaller sample is the head of a larger one of the same
    seed.

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
    return [pool[i] for i in sorted(range(len(pool)), key=lambda i: rounds[i])][:count]
