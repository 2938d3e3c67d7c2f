"""A seeded small world in CounterFact's schema: the embedded default data set, of any size, without a download.

People, towns and organisations with two-word, several-token names each take part in exactly one fact, so that no two
edits speak about the same subject. Everything a CounterFact record has is *real* in this world: neighbourhood prompts
name other subjects with the same relation and the same true object, attribute prompts name subjects of which
``target_new`` is true, and each relation has one rewrite and five paraphrase templates. A model trained on
:func:`editlab.data.true_statements` of these facts knows them, and an edit can be measured in full.

Sizing rule. A relation needs ``SUBJECTS_PER_OBJECT`` subjects an object (one to edit, ten neighbours) and, to be worth
choosing from, ``MIN_OBJECTS`` objects: a world of ``size`` facts has ``size // 44`` relations (1 to 10), its facts are
divided evenly among them, and a relation of n facts uses ``n // 11`` of its 30 objects (2 to 30), again evenly. From
2,200 facts on, every relation has 20 or more objects.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence

from editlab.data.world import ENDINGS, FIRST_WORDS, GENERATION, RELATIONS, STEMS, Relation
from editlab.errors import ConfigError
from editlab.randomness import python_rng
from editlab.requests import EditRequest, fill

NEIGHBORS = 10
ATTRIBUTES = 10
SUBJECTS_PER_OBJECT = NEIGHBORS + 1
MIN_OBJECTS = 4
MIN_SIZE = 2 * SUBJECTS_PER_OBJECT
MAX_SIZE = 50_000


def make_facts(size: int, seed: int) -> list[EditRequest]:
    """Generate ``size`` facts with distinct subjects, byte-identical for the same (size, seed).

    Each request has 5 paraphrase, 10 neighbourhood, 10 attribute and 4 generation prompts. No subject is a prefix of
    another. case ids are ``f00001``, ``f00002``, ... in an order in which relations and objects are mixed.

    Raises:
        ConfigError: ``size`` is not between 22 (two objects with eleven subjects each) and 50,000.
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
    return requests


def _triples(size: int, rng: random.Random) -> list[tuple[str, Relation, str]]:
    """(subject, relation, true object) of every fact, relations and objects balanced, in random order."""
    count = min(max(size // (MIN_OBJECTS * SUBJECTS_PER_OBJECT), 1), len(RELATIONS))
    relations = rng.sample(RELATIONS, count)
    shares = [size // count + (index < size % count) for index in range(count)]
    needed: dict[str, int] = defaultdict(int)
    for relation, share in zip(relations, shares, strict=True):
        needed[relation.kind] += share
    names = {kind: iter(_names(kind, total, rng)) for kind, total in needed.items()}
    triples = []
    for relation, share in zip(relations, shares, strict=True):
        objects = rng.sample(relation.objects, min(share // SUBJECTS_PER_OBJECT, len(relation.objects)))
        for true in itertools.islice(itertools.cycle(objects), share):
            triples.append((next(names[relation.kind]), relation, true))
    rng.shuffle(triples)
    return triples


def _probes(subjects: Sequence[str], relation: Relation, count: int, rng: random.Random) -> tuple[str, ...]:
    """``count`` statements about different subjects; templates rotate from a random start, so all kinds occur."""
    start = rng.randrange(len(relation.templates))
    chosen = enumerate(rng.sample(subjects, count), start=start)
    return tuple(fill(relation.templates[index % len(relation.templates)], subject) for index, subject in chosen)


def _names(kind: str, count: int, rng: random.Random) -> list[str]:
    """``count`` distinct names of two words, none a prefix of another: the last words are prefix-free."""
    first, last = FIRST_WORDS[kind], last_words(kind)
    picks = rng.sample(range(len(first) * len(last)), count)
    return [f"{first[pick % len(first)]} {last[pick // len(first)]}" for pick in picks]


def last_words(kind: str) -> list[str]:
    """All last words of a kind of subject, sorted, without those that another is a prefix of."""
    kept: list[str] = []
    for word in sorted({stem + ending for stem in STEMS[kind] for ending in ENDINGS[kind]}):
        if not kept or not word.startswith(kept[-1]):
            kept.append(word)
    return kept
