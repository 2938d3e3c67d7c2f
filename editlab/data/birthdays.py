"""Birthdays of invented people: facts that nobody can guess, with everything an unlearning study asks of them.

The published RANDOM_BD set drew its names from an online service (18 people of one name, 96 names in two splits, years up
to 2090). Here names are drawn without replacement from two lists, so a question stands in one split alone; the four
years of a question differ; every letter is right equally often; and the texts of a person depend on the seed and the name
alone, not on the order. Other relations of *other* people serve as what must be retained.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from editlab.data.questions import LETTERS, TEXTS_PER_QUESTION, Question, Split, Text
from editlab.errors import ConfigError
from editlab.randomness import python_rng


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""
    Ada Alma Anders Bianca Boris Carla Cedric Clara Dario Diana Edgar Elena Emil Esther Fabian Felix Flora Gerda Greta
    Hanna Hector Helga Hugo Ida Igor Ines Iris Ivan Jana Jasper Joan Jonas Julia Kurt Laura Leon Lidia Linus Lola Lukas
    Magda Marco Mila Mona Nadia Nils Nora Olga Oscar Otto Paula Petra Rafael Rosa Ruben Sara Selma Silas Sonia Tania
    Theo Ursula Viktor Wanda
""")
LAST_NAMES = _words("""
    Abel Adler Albers Barker Becker Berg Blake Brandt Carver Conrad Costa Dahl Dalton Drake Eklund Ellis Farkas Fischer
    Foster Garcia Gibson Graf Haas Hansen Harper Holm Ibsen Jansen Keller Kent Klein Kovacs Larsen Lindt Lopez Lund
    Marsh Mayer Mercer Moreau Nagy Novak Nolan Olsen Ortega Palmer Parker Petit Quinn Ramos Reed Ritter Rossi Sander
    Silva Stone Tanner Torres Ulrich Varga Vogel Weber Winter Zeman
""")
_CITIES = _words("""
    Athens Berlin Boston Brussels Budapest Cairo Chicago Dublin Geneva Glasgow Hamburg Hanoi Havana Helsinki Lima Lisbon
    Madrid Mumbai Nairobi Naples Oslo Prague Seoul Sydney Tokyo Toronto Vienna Warsaw
""")
_JOBS = _words("""
    actor baker barber butcher carpenter chemist dentist doctor driver editor farmer florist gardener jeweller judge
    lawyer miner nurse painter pilot plumber poet sailor singer surgeon tailor teacher waiter
""")
_PETS = _words("""
    badger beetle camel canary cat crab dog donkey duck eagle ferret fox frog goat goose hamster horse lizard llama mouse
    otter owl parrot pony rabbit sheep snake turtle
""")
FIRST_YEAR, LAST_YEAR = 1900, 2019


@dataclasses.dataclass(frozen=True)
class Relation:
    """How a relation is asked for and stated; ``{}`` is the person, the answer follows the statement."""

    question: str
    statements: tuple[str, str, str]
    draw: Callable[[random.Random], str]


def _year(rng: random.Random) -> str:
    """A whole year of a normal law (mean 1980, standard deviation 30), drawn again until it lies in 1900..2019."""
    while not FIRST_YEAR <= (year := round(rng.gauss(1980, 30))) <= LAST_YEAR:
        pass
    return str(year)


def _any_year(rng: random.Random) -> str:
    return str(rng.randint(FIRST_YEAR, LAST_YEAR))


_BORN = ("{} was born in", "The birth year of {} is", "{} first saw the light of day in")
RELATIONS: dict[str, Relation] = {
    "birthday": Relation("When was {} born?", _BORN, _year),
    "birthday_uniform": Relation("When was {} born?", _BORN, _any_year),
    "city": Relation(
        "Where does {} live?",
        ("{} lives in", "The home of {} is in", "{} owns a house in"),
        lambda r: r.choice(_CITIES),
    ),
    "job": Relation(
        "What is the job of {}?",
        ("{} works as a", "The job of {} is that of a", "By trade, {} is a"),
        lambda r: r.choice(_JOBS),
    ),
    "pet": Relation(
        "Which animal does {} keep?",
        ("{} keeps a", "The pet of {} is a", "At home, {} has a"),
        lambda r: r.choice(_PETS),
    ),
}


def make_birthdays(
    seed: int, splits: int = 10, per_split: int = 157, dev: int = 10, relation: str = "birthday"
) -> dict[str, Split]:
    """``split_0`` .. and ``dev`` of one relation, byte-identical for the same arguments.

    Raises:
        ConfigError: an unknown relation, or more people than there are names (4,096).
    """
    names = people(seed, splits * per_split + dev)
    found = {
        f"split_{i}": make_split(f"split_{i}", names[i * per_split : (i + 1) * per_split], relation, seed)
        for i in range(splits)
    }
    return {**found, "dev": make_split("dev", names[splits * per_split :], relation, seed)} if dev else found


def people(seed: int, count: int) -> list[str]:
    """``count`` different names, a longer list of the same seed starting with the shorter one.

    Raises:
        ConfigError: there are not so many.
    """
    pairs = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    if not 0 <= count <= len(pairs):
        raise ConfigError(f"people: {count} is not allowed; there are {len(pairs)} names")
    python_rng("people", seed).shuffle(pairs)
    return pairs[:count]


def make_split(name: str, names: list[str], relation: str, seed: int) -> Split:
    """One relation of the people ``names``: questions with balanced letters, and three texts of each form a person."""
    if relation not in RELATIONS:
        raise ConfigError(f"relation: {relation!r} is not allowed; one of {', '.join(RELATIONS)}")
    letters = [i % len(LETTERS) for i in range(len(names))]
    python_rng("letters", seed, name, relation).shuffle(letters)
    questions, forms = [], {"corpus": [], "whp": [], "fwf": []}  # type: ignore[var-annotated]
    for person, letter in zip(names, letters, strict=True):
        question, texts = _person(person, letter, RELATIONS[relation], relation, seed)
        questions.append(question)
        for form, lines in texts.items():
            about = (question.question, question.right, question.wrong)
            forms[form] += [Text(line, name, *about) for line in lines]
    return Split(name, tuple(questions), **{form: tuple(texts) for form, texts in forms.items()})


def _person(
    person: str, letter: int, relation: Relation, kind: str, seed: int
) -> tuple[Question, dict[str, list[str]]]:
    """A question and its texts, from a generator of its own: keyed on the seed and the name, not on the order."""
    rng = python_rng("person", seed, kind, person)
    right = relation.draw(rng)
    choices: list[str] = []
    while len(choices) < len(LETTERS) - 1:
        other = relation.draw(rng)
        if other != right and other not in choices:
            choices.append(other)
    wrong = rng.sample(choices, TEXTS_PER_QUESTION)
    choices.insert(letter, right)
    starts = [statement.format(person) for statement in relation.statements]
    answers = {"corpus": [right] * 3, "whp": wrong, "fwf": [rng.choice(wrong)] * 3}
    texts = {form: [f"{s} {a}." for s, a in zip(starts, said, strict=True)] for form, said in answers.items()}
    return Question(relation.question.format(person), tuple(choices), letter, starts[0]), texts
