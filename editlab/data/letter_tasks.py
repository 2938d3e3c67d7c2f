"""A universe of small tasks that compose: every position operation with every letter operation, on strings of letters.

A task rearranges a string of five letters out of twelve and then maps each letter along the cyclic alphabet: ``reverse, then
move every letter two steps forward``. Tasks are described in words, a phrase for each half and a connector between
them, so a description never names a task, only its parts. What a method knows of a task it never met must therefore
come from the parts: :func:`latin_split` holds out combinations by a Latin rule, so that every operation stays in
training with other partners, and :func:`operation_split` holds out whole operations.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

from editlab.errors import ConfigError

LETTERS = "ABCDEFGHIJKL"
LENGTH = 5
BAR, ARROW, PAD, END = "|", "=", "<pad>", "<end>"


@dataclasses.dataclass(frozen=True)
class Operation:
    """Half of a task: its name and three ways to say it."""

    name: str
    phrases: tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class PositionOperation(Operation):
    """Which input letter stands at each output position; None sorts the letters."""

    order: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class LetterOperation(Operation):
    """Where each of the twelve letters goes."""

    image: tuple[int, ...]


def _rotation(by: int, word: str) -> PositionOperation:
    order = tuple((i + by) % LENGTH for i in range(LENGTH))
    return PositionOperation(
        f"rotate-{by}",
        (f"rotate left by {word}", f"turn the string {word} to the left", f"carry the first {word} to the end"),
        order,
    )


def _shift(by: int, word: str) -> LetterOperation:
    size, way = len(LETTERS), "forward" if by > 0 else "back"
    return LetterOperation(
        f"shift{by:+d}",
        (f"move every letter {word} {way}", f"shift letters {way} by {word}", f"step {way} {word} in the alphabet"),
        tuple((i + by) % size for i in range(size)),
    )


POSITIONS: tuple[PositionOperation, ...] = (
    PositionOperation("keep", ("keep the order", "leave all places alone", "change no place"), (0, 1, 2, 3, 4)),
    PositionOperation("reverse", ("reverse the string", "write it backwards", "read from the end"), (4, 3, 2, 1, 0)),
    _rotation(1, "one"),
    _rotation(2, "two"),
    _rotation(3, "three"),
    PositionOperation(
        "swap-ends", ("swap both ends", "exchange the outer pair", "trade first with last"), (4, 1, 2, 3, 0)
    ),
    PositionOperation("sort", ("sort upwards", "put it in rising order", "arrange from low to high"), None),
    PositionOperation(
        "repeat-two", ("repeat the first two", "say the opening two again", "loop over the first two"), (0, 1, 0, 1, 0)
    ),
    PositionOperation(
        "swap-first", ("swap the opening pair", "exchange the first two", "trade first with second"), (1, 0, 2, 3, 4)
    ),
    PositionOperation(
        "swap-last", ("swap the closing pair", "exchange the last two", "trade fourth with last"), (0, 1, 2, 4, 3)
    ),
    PositionOperation(
        "repeat-three",
        ("repeat the first three", "say the opening three again", "loop over the first three"),
        (0, 1, 2, 0, 1),
    ),
    PositionOperation(
        "mirror", ("mirror around the middle", "go to the middle and return", "fold at the middle"), (0, 1, 2, 1, 0)
    ),
)
ALPHABET: tuple[LetterOperation, ...] = (
    LetterOperation(
        "same", ("keep all letters", "leave the letters alone", "change no letter"), tuple(range(len(LETTERS)))
    ),
    _shift(1, "one"),
    _shift(2, "two"),
    _shift(3, "three"),
    _shift(-1, "one"),
    LetterOperation(
        "flip",
        ("flip the alphabet", "take each opposite letter", "count from the far side"),
        tuple(reversed(range(len(LETTERS)))),
    ),
    _shift(-2, "two"),
    LetterOperation(
        "neighbours",
        ("exchange neighbour letters", "take each partner letter", "trade within letter pairs"),
        tuple(i ^ 1 for i in range(len(LETTERS))),
    ),
)
CONNECTORS = ("{0} and {1}", "{0} then {1}", "first {0} , next {1}", "{1} after you {0}")
SIZES = {"default": (12, 8), "small": (8, 6), "smoke": (3, 3)}


@dataclasses.dataclass(frozen=True)
class Task:
    """One cell of the grid."""

    position: int
    letter: int

    @property
    def name(self) -> str:
        return f"{POSITIONS[self.position].name}.{ALPHABET[self.letter].name}"

    def apply(self, string: Sequence[int]) -> list[int]:
        """The answer: letters (0 .. 11) to letters."""
        order = POSITIONS[self.position].order
        moved = sorted(string) if order is None else [string[i] for i in order]
        return [ALPHABET[self.letter].image[letter] for letter in moved]

    def descriptions(self, held_out: bool = False) -> list[str]:
        """The 24 wordings of training or the 12 that are held out; those are new combinations of known words."""
        first, second = POSITIONS[self.position].phrases, ALPHABET[self.letter].phrases
        return [
            connector.format(first[i], second[j])
            for i in range(3)
            for j in range(3)
            for c, connector in enumerate(CONNECTORS)
            if ((i + j + c) % 3 == 0) == held_out
        ]


@dataclasses.dataclass(frozen=True)
class Split:
    """Tasks by what they are used for."""

    train: tuple[Task, ...]
    validation: tuple[Task, ...]
    test: tuple[Task, ...]


def task_grid(size: str = "default") -> list[Task]:
    """All tasks of a universe, position by position.

    Raises:
        ConfigError: the size is none of :data:`SIZES`.
    """
    if size not in SIZES:
        raise ConfigError(f"tasks: {size!r} is not allowed; one of {', '.join(SIZES)}")
    positions, letters = SIZES[size]
    return [Task(a, b) for a in range(positions) for b in range(letters)]


def latin_split(tasks: Sequence[Task], seed: int) -> Split:
    """Combinations held out by a Latin rule: test where ``(3a + b + seed) mod 8`` is 0 or 4, validation where it is 2."""
    parts: dict[str, list[Task]] = {"train": [], "validation": [], "test": []}
    for task in tasks:
        residue = (3 * task.position + task.letter + seed) % 8
        parts[{0: "test", 4: "test", 2: "validation"}.get(residue, "train")].append(task)
    return Split(*(tuple(parts[name]) for name in ("train", "validation", "test")))


def operation_split(split: Split, position: str = "rotate-2", letter: str = "shift+2") -> Split:
    """Whole operations held out: test are the training tasks of ``split`` that hold one of them; its validation loses them.

    Both lie between two known ones of their kind, so that a method which understood the numbers could still do them.
    """

    def unknown(task: Task) -> bool:
        return POSITIONS[task.position].name == position or ALPHABET[task.letter].name == letter

    return Split(
        tuple(t for t in split.train if not unknown(t)),
        tuple(t for t in split.validation if not unknown(t)),
        tuple(t for t in split.train if unknown(t)),
    )


def vocabulary() -> list[str]:
    """Every token of the universe, in a fixed order: special ones, letters, words."""
    phrases = [p for operation in (*POSITIONS, *ALPHABET) for p in operation.phrases]
    words = sorted({word for text in (*phrases, *CONNECTORS) for word in text.split() if "{" not in word})
    return [PAD, END, BAR, ARROW, *LETTERS, *words]


def strings(count: int, rng: random.Random) -> list[list[int]]:
    """Random strings of letters (0 .. 11)."""
    return [[rng.randrange(len(LETTERS)) for _ in range(LENGTH)] for _ in range(count)]


def question(string: Sequence[int], description: str = "") -> str:
    """``description | A B C D E =``: what is asked, with the task named or left open."""
    return " ".join([*description.split(), BAR, *spelled(string), ARROW])


def spelled(string: Sequence[int]) -> list[str]:
    return [LETTERS[i] for i in string]


def examples(task: Task, count: int, rng: random.Random) -> Iterator[tuple[list[int], list[int]]]:
    """``count`` random inputs of a task with their answers."""
    for string in strings(count, rng):
        yield string, task.apply(string)
