"""Files of other people's data sets: which form a file has, its records as requests, and an account of what was read.

Nothing is dropped silently: :func:`read_dataset` counts what each record holds beyond what is scored, what a reader had to
do, and, where ``skip_invalid`` allows it, how many records were left out and why.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from editlab.data.counterfact import counterfact_requests, easyedit_requests, is_easyedit, is_peak, peak_requests
from editlab.data.knowedit import is_knowedit, is_qaedit, knowedit_requests, qaedit_requests
from editlab.data.mquake import is_mquake, mquake_requests
from editlab.data.relations import is_relation, relation_requests
from editlab.data.requests import EditRequest, read_json, read_records
from editlab.data.ripple import is_ripple, ripple_requests
from editlab.data.tidy import tidied
from editlab.data.zsre import zsre_requests
from editlab.errors import ConfigError, DataError, one_line

logger = logging.getLogger(__name__)

Notes = Counter[str]
Reader = Callable[[Any, int, str, Notes], list[EditRequest]]


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of records: how to tell it and how to read one (record, index, ``file: record index``, notes).

    ``inner`` are the fields that its reader knows inside of a record's fields, at any depth.
    """

    matches: Callable[[Mapping[str, Any]], bool]
    read: Reader
    inner: frozenset[str] = frozenset()


_REWRITE = frozenset({"prompt", "subject", "relation_id", "target_new", "target_true", "str", "id"})
_PROBE = frozenset({"kind", "questions", "conditions", "answers", "every"})
_TESTS = frozenset({"test_queries", "test_condition", "condition_queries", "prompt", "answers", "value", "aliases"})
_IDS = frozenset({"subject", "subject_id", "relation", "target_id", "target_ids", "query_type", "previous_fact"})

FORMS: dict[str, Form] = {
    "mquake": Form(is_mquake, mquake_requests, _REWRITE | {"question", "answer", "answer_alias"}),
    "peak": Form(is_peak, peak_requests, _REWRITE | {"target"}),
    "counterfact": Form(
        lambda record: "requested_rewrite" in record, counterfact_requests, _REWRITE | _PROBE | {"target"}
    ),
    "ripple": Form(is_ripple, ripple_requests, _TESTS | _IDS),
    "relations": Form(is_relation, relation_requests, frozenset({"subject", "object"})),
    "zsre": Form(lambda record: "src" in record, zsre_requests),
    "knowedit": Form(is_knowedit, knowedit_requests, frozenset({"prompt", "ground_truth"})),
    "qaedit": Form(is_qaedit, qaedit_requests, frozenset({"loc", "loc_ans"})),
    "easyedit": Form(is_easyedit, easyedit_requests),
}
"""Every form by its name in the config; the first that matches counts."""


@dataclasses.dataclass(frozen=True)
class ReadDataset:
    """What was read.

    Attributes:
        requests: in the file's order.
        account: kind, records, requests, probes by kind, fields that are not scored with their counts (fields of a record
            are kept with its request, those inside of its fields, such as ``locality.source``, are not), what
            readers noted, and records left out by reason (count and first index). JSON-serialisable.
    """

    requests: list[EditRequest]
    account: dict[str, Any]


def load_requests(
    path: str | Path, kind: str = "auto", *, skip_invalid: bool = False, size: int | None = None
) -> list[EditRequest]:
    """Read edit requests from a JSON file; nothing in it is ever executed.

    Args:
        path: a local file: CounterFact (also what :func:`~editlab.data.requests.write_requests` writes), EasyEdit's flat
            form, zsRE in the MEND schema, KnowEdit, QAEdit, MQuAKE, RippleEdits, PEAK or relation tables of LRE
            (``docs/data_formats.md`` shows what is read of each).
        kind: the form; "auto" tells it from the keys of the first record.
        skip_invalid: leave out records that cannot be used and warn how many and why, in place of an error.
        size: read the first so many records only (default: all).

    Raises:
        DataError: missing, empty, non-UTF-8 or non-JSON file; empty list; a record with a missing field, a prompt
            without ``{}``, an empty target or equal targets; duplicate case ids. Names the file and the record.
        ConfigError: ``kind`` is unknown, or ``size`` is less than 1 or more than the file has.
    """
    return read_dataset(path, kind, skip_invalid=skip_invalid, size=size).requests


def read_dataset(
    path: str | Path, kind: str = "auto", *, skip_invalid: bool = False, size: int | None = None
) -> ReadDataset:
    """:func:`load_requests` with an account of what was read, left out and kept without being scored."""
    if kind != "auto" and kind not in FORMS:
        raise ConfigError(f"kind: {kind!r} is not allowed; use one of auto, {', '.join(sorted(FORMS))}")
    records = _records(path)
    if size is not None and not 1 <= size <= len(records):
        raise ConfigError(f"size: {size} is not allowed; {path} has {len(records)} records")
    records = records[:size]
    form = _detect(records, path, skip_invalid) if kind == "auto" else kind
    _check_kind(kind, records[0], path)
    requests: list[EditRequest] = []
    notes, left_out = Counter(), {}  # type: ignore[var-annotated]
    unread: Counter[str] = Counter()
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        try:
            found = _read(FORMS[form], record, index, str(path), notes, seen)
        except DataError as error:
            if not skip_invalid:
                raise
            reason = _reason(str(error), path)
            left_out.setdefault(reason, {"count": 0, "first": index})["count"] += 1
            continue
        seen |= {request.case_id: index for request in found}
        requests += found
        unread.update(set(_unread(record, FORMS[form].inner, {n for r in found for n in r.extra})))
    if not requests:
        raise DataError(f"{path}: no record can be used ({'; '.join(left_out)})")
    unread.update(_unscored(requests))
    account = _account(form, len(records), requests, unread, notes, left_out)
    if left_out:
        why = "; ".join(f"{item['count']} x {reason}" for reason, item in left_out.items())
        count = sum(item["count"] for item in left_out.values())
        logger.warning("%s: %d of %d records left out: %s", path, count, len(records), why)
    return ReadDataset(requests, account)


def as_requests(given: Any) -> list[EditRequest]:
    """What a caller may hand to an editor as a list: one request or several, as objects or as records of any form.

    Raises:
        DataError: something else, or a record that cannot be read.
    """
    items = [given] if isinstance(given, EditRequest | Mapping) else given
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise DataError(
            f"requests: {type(given).__name__} is not allowed; give requests or records (load_requests reads a file)"
        )
    found: list[EditRequest] = []
    notes: Notes = Counter()
    for index, item in enumerate(items):
        if isinstance(item, EditRequest):
            found.append(item)
        elif isinstance(item, Mapping):
            seen = {request.case_id: k for k, request in enumerate(found)}
            form = FORMS[_detect([dict(item)], "requests", skip_invalid=False)]
            named = item if "case_id" in item or "requested_rewrite" not in item else {**item, "case_id": index}
            found += _read(form, named, index, "requests", notes, seen)
        else:
            raise DataError(f"requests: item {index}: {type(item).__name__} is not allowed; give requests or records")
    return found


def _records(path: str | Path) -> list[Any]:
    """The records of a file; a relation's table, an object by itself, is one record."""
    value = read_json(path)
    return [value] if isinstance(value, dict) and is_relation(value) else read_records(path)


def _detect(records: list[Any], path: str | Path, skip_invalid: bool) -> str:
    """The form of the first record (with ``skip_invalid``, of the first that has one)."""
    for record in records if skip_invalid else records[:1]:
        if isinstance(record, dict):
            for name, form in FORMS.items():
                if form.matches(record):
                    return name
    if not isinstance(records[0], dict):
        raise DataError(f"{path}: record 0: a record must be an object, got {type(records[0]).__name__}")
    keys = ", ".join(repr(str(key)[:30]) for key in list(records[0])[:8])
    raise DataError(
        f"{path}: record 0: unknown layout with fields [{keys}]; expected 'requested_rewrite' (CounterFact, MQuAKE, PEAK), "
        "'prompt' (EasyEdit, KnowEdit, QAEdit), 'src' (zsRE), 'edit' (RippleEdits) or 'samples' (LRE)"
    )


def _check_kind(kind: str, record: Any, path: str | Path) -> None:
    """Raise :class:`DataError` when a record is not of the kind that was named, but of another one."""
    if kind != "auto" and isinstance(record, dict) and not FORMS[kind].matches(record):
        other = next((name for name, form in FORMS.items() if form.matches(record)), None)
        if other is not None:
            raise DataError(
                f"{path}: record 0: not of the kind {kind!r} but of {other!r}; leave kind out, or name that one"
            )


def _read(form: Form, record: Any, index: int, source: str, notes: Notes, seen: Mapping[str, int]) -> list[EditRequest]:
    """The requests of one record, checked; its notes count only when it is used."""
    where = f"{source}: record {index}"
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a record must be an object, got {type(record).__name__}")
    fresh: Notes = Counter()
    try:
        found = form.read(record, index, where, fresh)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not a record of this form ({type(error).__name__}: {one_line(error)})") from None
    found = [tidied(request, fresh) for request in found]
    for request in found:
        named = f"{where} (case_id {request.case_id[:40]!r})"
        if request.case_id in seen:
            raise DataError(
                f"{source}: case_id {request.case_id[:40]!r} of record {index} is already used by "
                f"record {seen[request.case_id]}; case ids must be unique"
            )
        if request.target_new == request.target_true:
            raise DataError(
                f"{named}: target_new and target_true are both {request.target_new[:80]!r}; they must differ"
            )
    notes.update(fresh)
    return found


def _reason(message: str, path: str | Path) -> str:
    """An error without its file, record and values, so that the same mistake counts as one."""
    text = re.sub(r"^record \d+(?: \(case_id .*?\))?: ", "", message.removeprefix(f"{path}: "))
    text = re.sub(r" of record \d+ is already used by record \d+", " is already used", text)
    return re.sub(r"""(?<!field )(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", "...", text)


def _account(
    form: str,
    records: int,
    requests: list[EditRequest],
    unread: Counter[str],
    notes: Notes,
    left_out: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "kind": form,
        "records": records,
        "requests": len(requests),
        "probes": dict(sorted(Counter(probe.kind for r in requests for probe in r.probes).items())),
        "not_scored": dict(sorted(unread.items())),
        "notes": dict(sorted(notes.items())),
        "left_out": dict(left_out),
    }


def _unscored(requests: Iterable[EditRequest]) -> Iterable[str]:
    """Names of the fields of each record that are kept with its request and not scored."""
    for request in requests:
        for name, value in request.extra.items():
            if name == "requested_rewrite" and isinstance(value, Mapping):
                yield from (f"requested_rewrite.{inner}" for inner in value)
            else:
                yield name


def _unread(record: Mapping[str, Any], known: frozenset[str], kept: set[str]) -> Iterable[str]:
    """Paths of the fields inside of a record's fields that its reader does not know, such as ``locality.source``."""
    for name, value in record.items():
        if name in ("portability", "locality") and isinstance(value, Mapping):  # their keys are kinds of questions
            yield from (path for kind, items in value.items() for path in _inside(items, f"{name}.{kind}", known))
        elif name not in kept or name == "requested_rewrite":
            yield from _inside(value, name, known)


def _inside(value: Any, path: str, known: frozenset[str]) -> Iterable[str]:
    if isinstance(value, list):
        for item in value:
            yield from _inside(item, path, known)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name in known:
                yield from _inside(inner, f"{path}.{name}", known)
            elif path not in ("requested_rewrite", "edit"):  # theirs are kept with the request
                yield f"{path}.{name}"
