"""The facts of a study: what is forgotten, what is retained, examples for prompts; made or read, and kept as files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from editlab.config.unlearning import Birthdays, Data, QuestionFiles
from editlab.data.birthdays import make_split, people
from editlab.data.neutral import neutral_sentences, read_text
from editlab.data.questions import Question, Split, read_split, read_splits, split_names, write_split
from editlab.data.requests import read_json
from editlab.errors import DataError

SETS = ("forget", "same", "other")
OTHER_RELATIONS = ("city", "job", "pet")


@dataclasses.dataclass(frozen=True)
class Facts:
    """The splits of each set, in order.

    Attributes:
        forget: what is forgotten; the attack is told all splits but one.
        same: facts of the same relation that must be retained (the hard set); may be empty.
        other: other facts that must be retained.
        dev: questions for few-shot prompts.
    """

    forget: tuple[Split, ...]
    same: tuple[Split, ...]
    other: tuple[Split, ...]
    dev: tuple[Question, ...] = ()

    @property
    def retained(self) -> list[Split]:
        return [*self.same, *self.other]

    @property
    def sets(self) -> dict[str, tuple[Split, ...]]:
        return {name: getattr(self, name) for name in SETS if getattr(self, name)}


def study_facts(options: Data, seed: int) -> Facts:
    """The facts of a seed: generated, or those of published files, which are the same for every seed."""
    return make_facts(options, seed) if isinstance(options, Birthdays) else read_published(options)


def neutral_texts(options: Data, training: int, held_out: int, seed: int) -> dict[str, list[str]]:
    """``training`` sentences to learn or retain, and ``held_out`` others that perplexity and divergence are measured on."""
    if isinstance(options, QuestionFiles) and options.neutral_text is not None:
        lines = read_text(options.neutral_text)
        return {"training": lines[held_out : held_out + training], "held_out": lines[:held_out]}
    learned = neutral_sentences(training, seed) if training else []
    seen = set(learned)
    fresh = neutral_sentences(held_out + training // 20 + 20, seed + 1_000_000) if held_out else []
    return {"training": learned, "held_out": [s for s in fresh if s not in seen][:held_out]}


def load_neutral(directory: Path) -> dict[str, list[str]]:
    """The neutral sentences beside the facts."""
    return dict(read_json(directory / "neutral.json"))


def make_facts(options: Birthdays, seed: int) -> Facts:
    """Birthdays to forget; birthdays, homes, jobs and pets of other people to retain."""
    kind = "birthday" if options.years == "normal" else "birthday_uniform"
    size, kept = options.per_split, options.retain_splits
    names = iter(people(seed, size * (options.splits + 2 * kept) + options.dev))

    def split(name: str, relation: str, count: int = size) -> Split:
        return make_split(name, [next(names) for _ in range(count)], relation, seed)

    forget = tuple(split(f"split_{i}", kind) for i in range(options.splits))
    same = tuple(split(f"same_{i}", kind) for i in range(kept))
    relations = [OTHER_RELATIONS[i % len(OTHER_RELATIONS)] for i in range(kept)]
    other = tuple(split(f"{relation}_{i}", relation) for i, relation in enumerate(relations))
    return Facts(forget, same, other, split("dev", kind, options.dev).questions)


def read_published(options: QuestionFiles) -> Facts:
    """The sets of published directories.

    Raises:
        DataError: a file is missing, malformed or misaligned; one line. Also a split without texts to unlearn.
    """
    forget = tuple(read_splits(options.forget, options.forget_splits).values())
    for split in forget:
        if not (split.corpus and split.whp and split.fwf):
            raise DataError(
                f"{options.forget}: split {split.name!r} needs the files corpus_, whp_corpus_ and fwf_corpus_"
            )
    same = read_splits(options.same, options.same_splits or None) if options.same else {}
    other = read_splits(options.retain, options.retain_splits or None)
    dev = Path(options.forget, "dev.jsonl").is_file()
    return Facts(
        forget,
        tuple(same.values()),
        tuple(other.values()),
        read_split(options.forget, "dev").questions if dev else (),
    )


def write_facts(facts: Facts, directory: Path) -> None:
    """Write all sets as directories of the published form: ``forget/split_0.jsonl``, ``same/..``, ``other/..``."""
    for name, splits in facts.sets.items():
        for split in splits:
            write_split(split, directory / name)
    if facts.dev:
        write_split(Split("dev", facts.dev), directory / "forget")


def load_facts(directory: Path) -> Facts:
    """Read what :func:`write_facts` wrote.

    Raises:
        DataError: a file is missing or malformed.
    """
    sets = {
        name: tuple(read_splits(directory / name, _in_order(directory / name)).values())
        for name in SETS
        if (directory / name).is_dir()
    }
    dev = (directory / "forget" / "dev.jsonl").is_file()
    questions = read_split(directory / "forget", "dev").questions if dev else ()
    return Facts(sets["forget"], sets.get("same", ()), sets.get("other", ()), questions)


def _in_order(directory: Path) -> list[str]:
    """Names by their trailing number, then by name: split_10 after split_9."""

    def key(name: str) -> tuple[str, int, str]:
        stem, _, number = name.rpartition("_")
        return (stem, int(number), name) if number.isdigit() else (name, 0, name)

    return sorted(split_names(directory), key=key)
