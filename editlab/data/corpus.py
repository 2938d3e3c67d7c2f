"""Texts made from requests: what a substrate learns, what second moments stream over, what perplexity is held out on."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from editlab.data import load_requests, neutral_sentences, read_text, sample_requests, true_statements
from editlab.data.chains import second_hops
from editlab.data.invented import invented_statements
from editlab.data.requests import SWEEP, EditRequest
from editlab.errors import DataError, one_line
from editlab.randomness import python_rng

logger = logging.getLogger(__name__)

ENOUGH = 5
"""Statements a fact below which more are made up, about invented subjects (:mod:`editlab.data.invented`)."""

AMPLE = 10
"""Statements a fact that there are then; docs/decisions.md says what a file with fewer lacks."""

HELD_OUT_SEED = 7_000_001  # no substrate is trained with it


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a substrate is trained on.

    Attributes:
        statements: (prompt, right completion) of everything that is true.
        rewrites: those of the rewrite prompts, on which the recall gate looks.
        neutral: sentences that state no fact.
        subjects: names of the subjects.
    """

    statements: list[tuple[str, str]]
    rewrites: list[tuple[str, str]]
    neutral: list[str]
    subjects: list[str]


def substrate_corpus(requests: Sequence[EditRequest], neutral: int, seed: int) -> Corpus:
    """True statements of the requests and ``neutral`` seeded neutral sentences.

    Where the requests state little (:data:`ENOUGH`), statements about invented subjects are added.
    """
    truth = dict(true_statements(requests))
    for prompt, answer in second_hops(requests):
        truth.setdefault(prompt, answer)
    names: list[str] = []
    if len(truth) < ENOUGH * len(requests):
        stated = len(truth)
        more, names = invented_statements(requests, truth, AMPLE)
        truth |= more
        logger.warning(
            "%d true statements for %d facts: a substrate needs about %d a fact to be edited, so %d about %d invented subjects "
            "are added",
            stated,
            len(requests),
            AMPLE,
            len(more),
            len(names),
        )
    rewrites = [
        (prompt, truth[prompt]) for prompt in dict.fromkeys(r.rewrite_prompt for r in requests) if prompt in truth
    ]
    subjects = sorted({r.subject for r in requests} | set(names))
    return Corpus(list(truth.items()), rewrites, neutral_sentences(neutral, seed), subjects)


def held_out_sentences(count: int) -> list[str]:
    """Neutral sentences drawn apart from those that substrates are trained on."""
    return neutral_sentences(count, HELD_OUT_SEED)


def perplexity_texts(count: int, path: str | None = None) -> list[str]:
    """Texts for perplexity, ``count`` at most: those of a file, or held-out sentences."""
    return (read_text(path) if path else held_out_sentences(count))[:count]


def stream_texts(path: str | Path) -> Iterator[str]:
    """Texts of a file or a folder, one at a time, so that a corpus may be larger than the memory.

    Of a text file its paragraphs, as :func:`editlab.data.read_text` gives them; of a ``.jsonl`` the field ``text`` of every
    line; of a folder those of its ``.txt`` and ``.jsonl`` files, by name.

    Raises:
        DataError: a file is missing, not UTF-8 text, binary, not of that form, or the folder or file holds no text.
    """
    source, found = Path(path), False
    files = sorted(f for f in source.rglob("*") if f.suffix in (".txt", ".jsonl")) if source.is_dir() else [source]
    for file in files:
        for text in _json_texts(file) if file.suffix == ".jsonl" else _paragraphs(file):
            found = True
            yield text
    if not found:
        raise DataError(f"{path}: holds no paragraph of text" + (" in .txt or .jsonl files" if source.is_dir() else ""))


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if "\0" in line:
                    raise DataError(f"{file}: not a text file (it holds NUL bytes)")
                yield line
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({one_line(error.strerror or error)})") from None


def _paragraphs(file: Path) -> Iterator[str]:
    for line in _lines(file):
        text = line.strip()
        if text and not re.fullmatch(r"=.*=", text):
            yield text


def _json_texts(file: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        try:
            text = json.loads(line)["text"] if line.strip() else ""
        except (ValueError, KeyError, TypeError):
            raise DataError(f'{file}: line {number} is not an object with a "text"') from None
        if not isinstance(text, str):
            raise DataError(f'{file}: line {number}: its "text" is no text')
        if text.strip():
            yield text


def statistics_texts(
    text: str | Path | None, requests: str | Path | None, neutral: int = 0, seed: int = 0
) -> Iterable[str]:
    """Texts to stream second moments over: a file or folder of text, or the corpus of a substrate in a seeded order.

    Raises:
        DataError: neither is given, or something cannot be read.
    """
    if text is not None:
        return stream_texts(text)
    if requests is None:
        raise DataError("statistics.text: required for a model that was not trained here; name a text file")
    corpus = substrate_corpus(load_requests(requests), neutral, seed)
    texts = [f"{prompt} {target}" for prompt, target in corpus.statements] + corpus.neutral
    python_rng("statistics", seed).shuffle(texts)
    return texts


def sample_known(
    requests: Sequence[EditRequest], known: set[str] | None, count: int, seed: int, reserved_for: str = ""
) -> list[EditRequest]:
    """``count`` requests drawn by seed, only those whose case is known before the edit (None: all).

    Of a group all facts have to be known: what is asked of it follows from all of them.

    Args:
        reserved_for: draw from the facts that the data set keeps for this; by default from those that it keeps for nothing.

    Raises:
        DataError: too few.
    """
    free = [r for r in requests if r.reserved_for == reserved_for]
    partly = {r.group for r in free if r.group and known is not None and r.case_id not in known}
    pool = [r for r in free if known is None or (r.case_id in known and r.group not in partly)]
    try:
        return sample_requests(pool, count, seed)
    except DataError as error:
        notes = (
            [] if len(free) == len(requests) else [f"{len(requests) - len(free)} of {len(requests)} are for other uses"]
        )
        if known is not None:
            hint = "known_only: false edits others too"
            whole = ", together with all others of their case" if partly else ""
            notes.insert(0, f"{len(pool)} of {len(free)} facts are known to the model{whole}; {hint}")
        raise DataError(f"{error} ({'; '.join(notes)})" if notes else str(error)) from None


def read_known(path: str | Path) -> set[str]:
    """Case ids of the facts that the model knows, from the table of :func:`editlab.evaluation.scoring.score_known`.

    Raises:
        DataError: the table is missing or damaged.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"case_id": str, "known": float})
        return set(table.loc[table["known"] == 1, "case_id"].dropna())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a table of known facts ({one_line(error)}); delete it and rerun") from None


def reserved_facts(requests: Sequence[EditRequest], edited: Sequence[EditRequest]) -> list[EditRequest]:
    """The facts that the data set keeps for the choice of recipes, without those that another record of it states, if that one
    is edited."""
    keys = {request.key for request in edited}
    return [r for r in requests if r.reserved_for == SWEEP and r.key not in keys]
