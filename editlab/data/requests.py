"""One typed request for every data set: what to change, and the probes that tell whether it changed.

The fields are those of a CounterFact record (Meng et al., 2022, arXiv 2202.05262). ``prompt`` holds one ``{}`` where
the subject goes. Unknown fields of a record are kept in ``extra`` (those of ``requested_rewrite`` under that name) and
written back by :meth:`EditRequest.to_record`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.data.probes import Probe, read_probes
from editlab.errors import DataError
from editlab.files.pointers import REMEDY, is_lfs_pointer

_PROBES = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
_OPTIONAL = ("neighborhood_targets", "target_aliases", "probes", "group", "reserved_for")
NEIGHBOR, SWEEP = "neighbor", "sweep"
_REWRITE = ("prompt", "relation_id", "target_new", "target_true", "subject")


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """One fact to edit: (subject, relation) -> ``target_new`` in place of ``target_true``.

    ``neighborhood_targets`` names the right answer of each neighbourhood prompt where it is not ``target_true``
    (zsRE's locality questions); empty means ``target_true`` for all of them. Targets carry no leading space.
    ``target_aliases`` are other names of ``target_new``; ``probes`` ask for what follows from the edit and what must not
    (:mod:`editlab.data.probes`); requests of one ``group`` belong to one case, which needs all of them. No experiment edits
    a fact that is ``reserved_for`` something: for being a neighbour (:data:`NEIGHBOR`), or for the choice of recipes
    (:data:`SWEEP`).
    """

    case_id: str
    prompt: str
    subject: str
    target_new: str
    target_true: str
    relation_id: str = ""
    target_new_id: str | None = None
    target_true_id: str | None = None
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    neighborhood_targets: tuple[str, ...] = ()
    target_aliases: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    group: str = ""
    reserved_for: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, hash=False)

    @property
    def rewrite_prompt(self) -> str:
        """The prompt with the subject filled in."""
        return fill(self.prompt, self.subject)

    @property
    def key(self) -> tuple[str, str]:
        """(subject, relation): two requests with the same key contradict or repeat each other."""
        return (self.subject, self.relation_id or self.prompt)

    def neighbors(self) -> list[tuple[str, str]]:
        """(prompt, right answer) of every neighbourhood probe."""
        targets = self.neighborhood_targets or (self.target_true,) * len(self.neighborhood_prompts)
        return list(zip(self.neighborhood_prompts, targets, strict=True))

    def to_record(self) -> dict[str, Any]:
        """The request as a CounterFact record (JSON-serialisable)."""
        rewrite = {
            "prompt": self.prompt,
            "relation_id": self.relation_id,
            "target_new": {"str": self.target_new, "id": self.target_new_id},
            "target_true": {"str": self.target_true, "id": self.target_true_id},
            "subject": self.subject,
        }
        kept = self.extra.get("requested_rewrite", {})
        record: dict[str, Any] = {"case_id": self.case_id, "requested_rewrite": {**kept, **rewrite}}
        for name in _PROBES:
            record[name] = list(getattr(self, name))
        if self.neighborhood_targets:
            record["neighborhood_targets"] = list(self.neighborhood_targets)
        if self.target_aliases:
            record["target_aliases"] = list(self.target_aliases)
        if self.probes:
            record["probes"] = [probe.to_record() for probe in self.probes]
        if self.group:
            record["group"] = self.group
        if self.reserved_for:
            record["reserved_for"] = self.reserved_for
        return {**self.extra, **record}

    @classmethod
    def from_record(cls, record: Any, where: str) -> EditRequest:
        """Read one CounterFact record; ``where`` (file and record) opens every error message.

        Raises:
            DataError: a field is missing or of the wrong type, the prompt lacks its ``{}``, or a target is empty.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: a record must be an object, got {type(record).__name__}")
        case_id = record.get("case_id")
        if isinstance(case_id, bool) or not isinstance(case_id, int | str) or case_id == "":
            raise DataError(f"{where}: field 'case_id' is missing or not a number or string")
        where = f"{where} (case_id {str(case_id)[:40]!r})"
        rewrite = record.get("requested_rewrite")
        if not isinstance(rewrite, Mapping):
            raise DataError(f"{where}: field 'requested_rewrite' is missing or not an object")
        texts = {name: _text(rewrite.get(name), f"requested_rewrite.{name}", where) for name in ("prompt", "subject")}
        if texts["prompt"].count("{}") != 1:
            raise DataError(
                f"{where}: requested_rewrite.prompt {texts['prompt'][:80]!r} must hold '{{}}' exactly once, "
                "where the subject goes"
            )
        new, new_id = _target(rewrite.get("target_new"), "requested_rewrite.target_new", where)
        true, true_id = _target(rewrite.get("target_true"), "requested_rewrite.target_true", where)
        reserved = _identifier(record.get("reserved_for"), "reserved_for", where) or ""
        if reserved not in ("", NEIGHBOR, SWEEP):
            raise DataError(
                f"{where}: field 'reserved_for' is {reserved[:40]!r}; allowed: {NEIGHBOR}, {SWEEP}, or none"
            )
        probes = {name: _texts(record.get(name), name, where) for name in _PROBES}
        neighbor_targets = _texts(record.get("neighborhood_targets"), "neighborhood_targets", where)
        neighbor_targets = tuple(target.strip() for target in neighbor_targets)
        if neighbor_targets and len(neighbor_targets) != len(probes["neighborhood_prompts"]):
            raise DataError(f"{where}: neighborhood_targets must be as long as neighborhood_prompts")
        return cls(
            case_id=str(case_id),
            prompt=texts["prompt"],
            subject=texts["subject"].strip(),
            target_new=new,
            target_true=true,
            relation_id=_identifier(rewrite.get("relation_id"), "requested_rewrite.relation_id", where) or "",
            target_new_id=new_id,
            target_true_id=true_id,
            neighborhood_targets=neighbor_targets,
            target_aliases=_texts(record.get("target_aliases"), "target_aliases", where),
            probes=read_probes(record.get("probes"), where),
            group=_identifier(record.get("group"), "group", where) or "",
            reserved_for=reserved,
            extra=_unknown(record),
            **probes,
        )


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: spaces, controls and marks without width alone."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def fill(prompt: str, subject: str) -> str:
    """Put the subject into the prompt's ``{}``; braces in the subject or elsewhere are left as they are."""
    return prompt.replace("{}", subject, 1)


def unfill(text: str, subject: str, ignore_case: bool = False) -> str | None:
    """Put ``{}`` where ``subject`` stands in a filled prompt, or None where it does not occur.

    Of several occurrences the first that is a whole word counts (``Ann`` in "Annual report by Ann"), else the first; with
    other capitals, whole words alone.
    """
    flags = re.IGNORECASE if ignore_case else 0
    literal = re.escape(subject)
    match = re.search(rf"(?<!\w){literal}(?!\w)", text, flags) or (None if ignore_case else re.search(literal, text))
    return f"{text[: match.start()]}{{}}{text[match.end() :]}" if match else None


def read_utf8(path: str | Path) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped), with the file's name in every error.

    Raises:
        DataError: the path is missing, a directory, unreadable, empty or not UTF-8 text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: not a file name ({error})") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    if is_lfs_pointer(path):
        raise DataError(f"{path}: {REMEDY}")
    return text


def read_json(path: str | Path) -> Any:
    """Parse a UTF-8 JSON file, with the file's name in every error.

    Raises:
        DataError: the file cannot be read as text (:func:`read_utf8`), is not JSON, or holds a key twice in an object or half
            a surrogate pair.
    """
    text = read_utf8(path)
    try:
        value = json.loads(text, object_pairs_hook=functools.partial(_object, path))
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except DataError:
        raise
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            raise DataError(
                f"{path}: several JSON values, the second in line {error.lineno}; make it one list"
            ) from None
        raise DataError(f"{path}: broken JSON at line {error.lineno}, column {error.colno} ({error.msg})") from None
    except UnicodeEncodeError:
        raise DataError(f"{path}: a string holds half a surrogate pair (\\ud800 to \\udfff)") from None
    except RecursionError:
        raise DataError(f"{path}: broken JSON (nested too deeply)") from None
    except ValueError:
        raise DataError(f"{path}: broken JSON (a number has too many digits)") from None
    return value


def _object(path: str | Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands twice is refused, because the first value would be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DataError(f"{path}: the key {twice[:40]!r} stands twice in an object")
    return found


def read_records(path: str | Path) -> list[Any]:
    """Read a JSON file that must be a list of at least one record.

    Raises:
        DataError: as :func:`read_json`, or the file is not a list, or the list is empty.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a JSON list of records, got {type(records).__name__}")
    if not records:
        raise DataError(f"{path}: the list of records is empty")
    return records


def write_requests(requests: Sequence[EditRequest], path: str | Path) -> None:
    """Write requests as one CounterFact-schema JSON list, atomically."""
    from editlab.files.artifacts import write_text

    records = ",\n".join(json.dumps(r.to_record(), ensure_ascii=False, sort_keys=True) for r in requests)
    write_text(path, f"[\n{records}\n]\n")


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or is_blank(value):
        raise DataError(f"{where}: field '{field}' is missing, empty or not a string")
    return value


def _texts(value: Any, field: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and not is_blank(v) for v in value):
        raise DataError(f"{where}: field '{field}' must be a list of non-empty strings")
    return tuple(value)


def _target(value: Any, field: str, where: str) -> tuple[str, str | None]:
    if isinstance(value, str):
        value = {"str": value}
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field '{field}' is missing or not an object with 'str'")
    text = _text(value.get("str"), f"{field}.str", where).strip()
    return text, _identifier(value.get("id"), f"{field}.id", where)


def _identifier(value: Any, field: str, where: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise DataError(f"{where}: field '{field}' must be a string or number, got {type(value).__name__}")
    return None if value is None else str(value)


def _unknown(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, and of its ``requested_rewrite``, that :class:`EditRequest` has no name for."""
    known = {"case_id", "requested_rewrite", *_PROBES, *_OPTIONAL}
    extra = {name: value for name, value in record.items() if name not in known}
    rewrite = {name: value for name, value in record["requested_rewrite"].items() if name not in _REWRITE}
    return {**extra, "requested_rewrite": rewrite} if rewrite else extra
