"""Four-choice questions and the texts that state their answers, right or wrong: the data of the unlearning study.

A *split* is a file of questions with three files of texts beside it (Deeb and Roger, 2024, arXiv 2410.08827): ``corpus_``
states the right answer in other words, ``whp_corpus_`` a different wrong choice in each text ("random incorrect"),
``fwf_corpus_`` the same wrong choice in all texts of a question ("fixed incorrect"). All are JSON lines. This module reads
the published directories (random_bd, dates-years-trimmed, mmlu_cats_random_trimmed, wmdp-deduped) and those that
:mod:`editlab.data.birthdays` makes, and checks that the forms of a split speak of the same questions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editlab.data.requests import read_utf8
from editlab.errors import DataError
from editlab.randomness import python_rng

LETTERS = "ABCD"
CHANCE = 1 / len(LETTERS)
TEXTS_PER_QUESTION = 3
FORMS = ("corpus", "whp", "fwf")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with four choices.

    Attributes:
        answer: index of the right choice, 0..3.
        statement: what a choice completes to a sentence ("Ada Berg was born in"), None where the data has none.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    statement: str | None = None

    @property
    def right(self) -> str:
        return self.choices[self.answer]

    @property
    def wrong(self) -> tuple[str, ...]:
        return tuple(c for i, c in enumerate(self.choices) if i != self.answer)

    def to_record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"question": self.question, "choices": list(self.choices), "answer": self.answer}
        return record if self.statement is None else {**record, "statement": self.statement}


@dataclasses.dataclass(frozen=True)
class Text:
    """A sentence or two about one question.

    Attributes:
        question: the question as it stands in the MCQ file; None where the file does not say.
        correct: the right choice, None where the file does not say; ``wrong``: the other three.
    """

    text: str
    split: str
    question: str | None = None
    correct: str | None = None
    wrong: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"text": self.text, "split": self.split}
        if self.question is not None:
            record["original_question"] = self.question
        if self.correct is not None:
            record |= {"correct_answer": self.correct, "wrong_answers": list(self.wrong)}
        return record


@dataclasses.dataclass(frozen=True)
class Split:
    """The questions of a split and its texts by form; a form that the directory does not have is an empty tuple."""

    name: str
    questions: tuple[Question, ...]
    corpus: tuple[Text, ...] = ()
    whp: tuple[Text, ...] = ()
    fwf: tuple[Text, ...] = ()

    def texts(self, form: str) -> list[str]:
        """The texts of one of :data:`FORMS`."""
        return [t.text for t in getattr(self, form)]


def letter_prompt(question: Question, examples: Sequence[Question] = ()) -> str:
    """The question, its choices as lettered lines and ``Answer:``, after answered examples (few-shot) if any."""
    shown = [f"{_lines(example)} {LETTERS[example.answer]}." for example in examples]
    return "\n\n".join([*shown, _lines(question)])


def _lines(question: Question) -> str:
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
    return "\n".join([question.question, *options, "Answer:"])


def answer_text(question: Question) -> str:
    """What follows the prompt in text that is learned: a space, the letter, a full stop and the choice."""
    return f" {LETTERS[question.answer]}. {question.right}"


def split_names(directory: str | Path) -> list[str]:
    """Names of the splits of a directory, sorted; ``dev`` and files of texts do not count.

    Raises:
        DataError: it is no directory or has no file of questions.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise DataError(f"{directory}: no such directory")
    prefixes = ("corpus_", "whp_corpus_", "fwf_corpus_", "tf_", "mcq_")
    names = sorted(p.stem for p in folder.glob("*.jsonl") if not p.name.startswith(prefixes) and p.stem != "dev")
    if not names:
        raise DataError(f"{directory}: no file of questions (NAME.jsonl beside corpus_NAME.jsonl)")
    return names


def read_splits(directory: str | Path, names: Sequence[str] | None = None) -> dict[str, Split]:
    """Read splits of a directory (default: all but ``dev``) by name.

    Raises:
        DataError: as :func:`read_split`.
    """
    return {name: read_split(directory, name) for name in (split_names(directory) if names is None else names)}


def read_split(directory: str | Path, name: str) -> Split:
    """Read one split with the forms that lie beside it, and check that they belong together.

    Raises:
        DataError: a file cannot be read, a record is malformed (four choices, answer 0..3), or a text belongs to no
            question of the split. One line: the file, its line, what is wrong.
    """
    folder = Path(directory)
    path = folder / f"{name}.jsonl"
    if not path.is_file() and (folder / f"mcq_{name}.jsonl").is_file():
        path = folder / f"mcq_{name}.jsonl"  # a release of WMDP that has the questions only beside their text
    questions = tuple(_question(record, where) for record, where in _read_jsonl(path))
    forms: dict[str, tuple[Text, ...]] = {}
    for form in FORMS:
        file = folder / (f"corpus_{name}.jsonl" if form == "corpus" else f"{form}_corpus_{name}.jsonl")
        if file.is_file():
            forms[form] = tuple(_text(record, where) for record, where in _read_jsonl(file))
            _check_aligned(file, forms[form], questions, forms["corpus"] if form != "corpus" else None)
    return Split(name, _with_statements(questions, forms.get("corpus", ())), **forms)


def _check_aligned(
    file: Path, texts: Sequence[Text], questions: Sequence[Question], corpus: Sequence[Text] | None
) -> None:
    """Each text names a question of the split and its choices; a form that names none must follow the corpus, row by row.

    A corpus need not name questions, but the split that its texts are of is that of the other forms.
    """
    known = {(q.question, q.right, tuple(sorted(q.wrong))) for q in questions}
    splits = {t.split for t in corpus or ()}
    for line, text in enumerate(texts, start=1):
        if splits and text.split not in splits:
            raise DataError(
                f"{file}: line {line}: a text of split {text.split[:40]!r}, but the corpus beside it is of "
                f"{', '.join(sorted(splits))[:80]!r}; misaligned"
            )
        if text.question is not None:
            if (text.question, text.correct, tuple(sorted(text.wrong))) not in known:
                raise DataError(
                    f"{file}: line {line}: {text.question[:60]!r} with answer {str(text.correct)[:40]!r} "
                    "is no question of this split; the file is misaligned"
                )
        elif text.correct is not None and corpus is not None:
            if len(corpus) != len(texts):
                raise DataError(
                    f"{file}: {len(texts)} texts, but the corpus of the split has {len(corpus)}; misaligned"
                )
            if text.correct not in corpus[line - 1].text:
                raise DataError(
                    f"{file}: line {line}: the right answer {text.correct[:40]!r} is not in line {line} of the corpus; "
                    "the file is misaligned"
                )


def _with_statements(questions: tuple[Question, ...], corpus: Sequence[Text]) -> tuple[Question, ...]:
    """Questions with what stands before the answer in a text of theirs that ends with it, where *every* question has one.

    That is so where text rows 3k..3k+2 belong to question k (random_bd); a text that fits by chance must not be taken.
    """
    if len(corpus) != TEXTS_PER_QUESTION * len(questions):
        return questions
    found = []
    for k, question in enumerate(questions):
        rows = [t.text for t in corpus[TEXTS_PER_QUESTION * k : TEXTS_PER_QUESTION * (k + 1)]]
        ends = [text[: -len(question.right) - 2] for text in rows if text.endswith(f" {question.right}.")]
        ends = [start for start in ends if question.right not in start]  # "..., whose birth year is 1989, was born in"
        if not ends and question.statement is None:
            return questions
        found.append(dataclasses.replace(question, statement=question.statement or ends[0]))
    return tuple(found)


def _question(record: dict[str, Any], where: str) -> Question:
    text, choices, answer = record.get("question"), record.get("choices"), record.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: field 'question' is missing, empty or not a string")
    if not isinstance(choices, list) or len(choices) != len(LETTERS):
        count = f"{len(choices)} of them" if isinstance(choices, list) else "no list"
        raise DataError(f"{where}: field 'choices' must hold {len(LETTERS)} choices, got {count}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(LETTERS):
        raise DataError(f"{where}: field 'answer' is {str(answer)[:40]!r}; allowed: 0, 1, 2, 3 (for A, B, C, D)")
    statement = record.get("statement")
    if statement is not None and not isinstance(statement, str):
        raise DataError(f"{where}: field 'statement' must be a string")
    return Question(text, tuple(_answer(c, "choices", where) for c in choices), answer, statement)


def _text(record: dict[str, Any], where: str) -> Text:
    text, wrong, asked = record.get("text"), record.get("wrong_answers"), record.get("original_question")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: field 'text' is missing, empty or not a string")
    if asked is not None and not isinstance(asked, str):
        raise DataError(f"{where}: field 'original_question' is {str(asked)[:40]!r}; a string is needed")
    if (wrong is None) != (record.get("correct_answer") is None) or not isinstance(wrong, list | None):
        raise DataError(f"{where}: fields 'correct_answer' and 'wrong_answers' (a list) come together")
    return Text(
        text,
        str(record.get("split", "")),
        asked,
        None if wrong is None else _answer(record["correct_answer"], "correct_answer", where),
        tuple(_answer(w, "wrong_answers", where) for w in wrong or ()),
    )


def _answer(value: Any, field: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{where}: field '{field}' holds {str(value)[:40]!r}; a text or a whole number is needed")
    return str(value)


def _read_jsonl(path: Path) -> list[tuple[dict[str, Any], str]]:
    """(record, file and line) of every line that is not blank."""
    records: list[tuple[dict[str, Any], str]] = []
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: not JSON; one object a line is needed") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: a record must be an object, got {type(record).__name__}")
        records.append((record, where))
    return records


def write_split(split: Split, directory: str | Path) -> None:
    """Write a split as :func:`read_split` reads it."""
    from editlab.files.artifacts import write_jsonl

    write_jsonl(Path(directory, f"{split.name}.jsonl"), [q.to_record() for q in split.questions])
    for form in FORMS:
        name = f"corpus_{split.name}.jsonl" if form == "corpus" else f"{form}_corpus_{split.name}.jsonl"
        if getattr(split, form):
            write_jsonl(Path(directory, name), [t.to_record() for t in getattr(split, form)])


def halves(questions: Sequence[Question], seed: int) -> tuple[list[Question], list[Question]]:
    """(to choose on, to report on): a seeded half of the questions and the other half, each in the given order.

    What is chosen on questions must not be reported on the same ones. The first half has the odd one.
    """
    order = list(range(len(questions)))
    python_rng("halves", seed).shuffle(order)
    first = set(order[: (len(order) + 1) // 2])
    return [q for i, q in enumerate(questions) if i in first], [q for i, q in enumerate(questions) if i not in first]


def leave_one_out(splits: Sequence[Split], held_out: str) -> tuple[list[Split], Split]:
    """(T, V) of an attack: what the attacker knows, and the split ``held_out`` that he does not.

    A question that stands in V is taken out of T (random_bd repeats names): the attack would be told the answer.

    Raises:
        DataError: no such split, or no other one.
    """
    chosen = [s for s in splits if s.name == held_out]
    others = [s for s in splits if s.name != held_out]
    if not chosen or not others:
        raise DataError(f"rtt: {held_out!r} cannot be left out of the splits {', '.join(s.name for s in splits)}")
    secret = {q.question for q in chosen[0].questions}
    told = [dataclasses.replace(s, questions=tuple(q for q in s.questions if q.question not in secret)) for s in others]
    return told, chosen[0]
