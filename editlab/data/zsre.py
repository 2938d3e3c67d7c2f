"""zsRE: questions that a relation extractor can be taught to answer, in the schema of MEND (arXiv 2110.11309).

A record holds a question ``src`` about ``subject``, a rephrased question, the right ``answers``, the wrong answer
``pred`` of a question-answering model, a false alternative ``alt`` and an unrelated Natural Questions pair
(``loc``, ``loc_ans``). We follow MEMIT's evaluation (arXiv 2210.07229, section 5.2.3), which *teaches the truth*:
``target_new = answers[0]``, and the neighbourhood probe is ``loc`` with its "nq question: " prefix and a question mark
added, answered by ``loc_ans``. MEMIT leaves ``target_true`` at the placeholder ``<|endoftext|>``, so that success has
nothing to be compared with; here it is a rival answer: ``pred`` where that differs from ``target_new``, else ``alt``,
else (2 of the 1,000 records examined) that placeholder. "target_true" therefore names what an unedited model is assumed
to say, not the truth. MEMIT scores zsRE by accuracy, which does not look at ``target_true``.

EasyEdit's file adds a question of portability to each record, whose answer follows from ``alt``. Such a record is read as
EasyEdit reads it: ``alt`` is taught in place of ``answers[0]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from editlab.data.counterfact import has_new_question, with_new_question
from editlab.data.fields import PLACEHOLDER, string, template_of
from editlab.data.requests import EditRequest
from editlab.errors import DataError

_USED = ("case_id", "subject", "src", "rephrase", "loc", "loc_ans")


def zsre_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One MEND record; ``where`` (file and record) opens every error message, and ``index`` is the case_id.

    Fields beyond the ones named above, and ``answers``, ``pred`` and ``alt``, are kept in ``extra``.

    Raises:
        DataError: a field is missing, empty or of the wrong type, or the subject does not occur in ``src``.
    """
    for name in ("subject", "src", "rephrase", "loc", "loc_ans"):
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise DataError(f"{where}: field '{name}' is missing, empty or not a string")
    subject, question, locality = record["subject"], record["src"], record["loc"].rstrip()
    prompt = template_of(question, subject, where, notes)
    answer = _answer(record.get("answers"), where)
    if has_new_question(record):
        notes["records of EasyEdit, whose false alternative (alt) is taught"] += 1
        new, true = string(record.get("alt"), "alt", where), answer
    else:
        new, true = answer, _rival(record, answer, where)
    standard = {
        "case_id": record.get("case_id", index),
        "requested_rewrite": {
            "prompt": prompt,
            "subject": subject,
            "target_new": new,
            "target_true": true,
        },
        "paraphrase_prompts": [record["rephrase"]],
        "neighborhood_prompts": [locality if locality.endswith("?") else f"{locality}?"],
        "neighborhood_targets": [record["loc_ans"]],
    }
    rest = {k: v for k, v in record.items() if k not in _USED}
    return [EditRequest.from_record(with_new_question({**rest, **standard}, where), where)]


def _answer(answers: Any, where: str) -> str:
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str) or not answers[0].strip():
        raise DataError(f"{where}: field 'answers' must be a list that opens with a non-empty string")
    return answers[0].strip()


def _rival(record: Mapping[str, Any], answer: str, where: str) -> str:
    for name in ("pred", "alt"):
        value = record.get(name)
        if not isinstance(value, str | None):
            raise DataError(f"{where}: field '{name}' must be a string, got {type(value).__name__}")
        if value is not None and value.strip() not in ("", answer):
            return value.strip()
    return PLACEHOLDER
