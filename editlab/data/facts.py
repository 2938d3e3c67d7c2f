"""A seeded small world in CounterFact's schema: the embedded default data set, of any size, without a download.

People, towns and organisations with two-word, several-token names each take part in one fact of every relation of their
kind (a person has a birthplace, a citizenship, a mother tongue, ...): a model has reason to work out who is meant at the
end of the name, which is where editing methods look. Everything a CounterFact record has is *real* in this world:
neighbourhood prompts name other subjects with the same relation and the same true object, attribute prompts name
subjects of which ``target_new`` is true, and each relation has one rewrite and five paraphrase templates. A model trained on
:func:`editlab.data.true_statements` of these facts knows them, and an edit can be measured in full.

Sizing rule. A relation needs ``SUBJECTS_PER_OBJECT`` subjects an object (one to edit, five neighbours) and, to be worth
choosing from, ``MIN_OBJECTS`` objects: a world of ``size`` facts has ``size // 24`` relations (1 to 15), its facts are
divided evenly among them, and a relation of n facts uses ``n // 6`` of its 30 objects (2 to 30), again evenly. From
1,800 facts on, every relation has 20 or more objects.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence

from editlab.data.chains import with_chains
from editlab.data.inverses import with_inverses
from editlab.data.requests import EditRequest, fill
from editlab.data.world import ENDINGS, FIRST_WORDS, GENERATION, LINKS, RELATIONS, STEMS, Relation
from editlab.errors import ConfigError
from editlab.randomness import derive_seed, python_rng

NEIGHBORS = 10
ATTRIBUTES = 10
SUBJECTS_PER_OBJECT = 6  # one to edit, five neighbours with two statements each
MIN_OBJECTS = 4
MIN_SIZE = 2 * SUBJECTS_PER_OBJECT
MAX_SIZE = 50_000


def make_facts(size: int, seed: int, chains: bool = False) -> list[EditRequest]:
    """Generate ``size`` facts with distinct (subject, relation), byte-identical for the same (size, seed).

    Each request has 5 paraphrase, 10 neighbourhood, 10 attribute and 4 generation prompts. No subject is a prefix of
    another. case ids are ``f00001``, ``f00002``, ... in an order in which relations and objects are mixed.

    Args:
        chains: add probes over two hops and of inverse relations (:mod:`editlab.data.chains`,
            :mod:`editlab.data.inverses`); nothing else changes.

    Raises:
        ConfigError: ``size`` is not between 12 (two objects with six subjects each) and 50,000.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(f"size: {size} is not allowed; a world has between {MIN_SIZE} and {MAX_SIZE} facts")
    rng = python_rng("facts", size, seed)
    triples = _triples(size, rng)
    subjects_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for subject, relation, true in triples:
        subjects_of[relation.identifier, true].append(subject)
    objects_of: dict[str, list[str]] = defaultdict(list)
    for identifier, true in subjects_of:
        objects_of[identifier].append(true)
    requests = []
    for number, (subject, relation, true) in enumerate(triples, start=1):
        new = rng.choice([item for item in objects_of[relation.identifier] if item != true])
        neighbors = [other for other in subjects_of[relation.identifier, true] if other != subject]
        requests.append(
            EditRequest(
                case_id=f"f{number:05d}",
                prompt=relation.templates[0],
                subject=subject,
                target_new=new,
                target_true=true,
                relation_id=relation.identifier,
                paraphrase_prompts=tuple(fill(template, subject) for template in relation.templates[1:]),
                neighborhood_prompts=_probes(neighbors, relation, NEIGHBORS, rng),
                attribute_prompts=_probes(subjects_of[relation.identifier, new], relation, ATTRIBUTES, rng),
                generation_prompts=tuple(fill(template, subject) for template in GENERATION[relation.kind]),
            )
        )
    return with_inverses(with_chains(requests)) if chains else requests


def _triples(size: int, rng: random.Random) -> list[tuple[str, Relation, str]]:
    """(subject, relation, true object) of every fact, relations and objects balanced, in random order."""
    count = min(max(size // (MIN_OBJECTS * SUBJECTS_PER_OBJECT), 1), len(RELATIONS))
    relations = rng.sample(RELATIONS, count)
    shares = [size // count + (index < size % count) for index in range(count)]
    needed: dict[str, int] = defaultdict(int)
    for relation, share in zip(relations, shares, strict=True):
        needed[relation.kind] = max(needed[relation.kind], share)
    names = {kind: _names(kind, total, rng) for kind, total in needed.items()}
    triples = []
    for relation, share in zip(relations, shares, strict=True):
        objects = rng.sample(relation.objects, min(share // SUBJECTS_PER_OBJECT, len(relation.objects)))
        # Shuffled anew for each relation: what is true of a subject in one tells nothing about the others.
        subjects = rng.sample(names[relation.kind], share)
        triples += [(name, relation, true) for name, true in zip(subjects, itertools.cycle(objects), strict=False)]
    rng.shuffle(triples)
    return triples


def _probes(subjects: Sequence[str], relation: Relation, count: int, rng: random.Random) -> tuple[str, ...]:
    """``count`` different statements about the subjects, as many subjects as there are; all templates occur."""
    order = rng.sample(list(subjects), len(subjects))
    start, templates = rng.randrange(len(relation.templates)), len(relation.templates)
    # A subject that comes again, a lap later, has the next template: no statement comes twice.
    laps = [(i % len(order), i // len(order)) for i in range(count)]
    picks = [(order[k], (start + k + lap) % templates) for k, lap in laps]
    return tuple(fill(relation.templates[template], subject) for subject, template in picks)


def _names(kind: str, count: int, rng: random.Random) -> list[str]:
    """``count`` distinct names of two words, none a prefix of another: the last words are prefix-free.

    A last word is not shared until they run out: it alone tells who it is, as most real names do.
    """
    first = FIRST_WORDS[kind]
    names: list[str] = []
    rounds = [_shuffled(last_words(kind, link), rng) for link in LINKS]
    for lap in itertools.count():
        for word in itertools.chain.from_iterable(rounds):
            if len(names) == count:
                return names
            # A last word that comes again has another first word: the same start, one further each lap.
            start = derive_seed("first word", kind, word)
            names.append(f"{first[(start + lap) % len(first)]} {word}")
    raise AssertionError


def _shuffled(words: list[str], rng: random.Random) -> list[str]:
    return rng.sample(words, len(words))


def last_words(kind: str, link: str = "") -> list[str]:
    """Last words of a kind of subject built with a linking vowel, sorted; prefix-free together with all other links."""
    everything = {stem + vowel + ending for stem in STEMS[kind] for vowel in LINKS for ending in ENDINGS[kind]}
    kept: list[str] = []
    for word in sorted(everything):
        if not kept or not word.startswith(kept[-1]):
            kept.append(word)
    mine = {stem + link + ending for stem in STEMS[kind] for ending in ENDINGS[kind]}
    return [word for word in kept if word in mine]
