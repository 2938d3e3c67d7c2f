"""A seeded small world in CounterFact's schema: the embedded default data set, of any size, without a download.

People, towns and organisations with two-word, several-token names each take part in one fact of every relation of their
kind (a person has a birthplace, a citizenship, a mother tongue, ...): a model has reason to work out who is meant at the
end of the name, which is where editing methods look. Everything a CounterFact record has is *real* in this world:
neighbourhood prompts name other subjects with the same relation and the same true object, attribute prompts name
subjects of which ``target_new`` is true, and each relation has one rewrite and five paraphrase templates. A model trained on
:func:`editlab.data.true_statements` of these facts knows them, and an edit can be measured in full.

Some subjects are *reserved*: none of their facts is ever edited (role ``neighbor``). Every object of every relation is true
of two of them, and half of the neighbourhood prompts of a fact are about these, so that however long a stream of edits is,
half of its neighbours are untouched. The facts of a few more subjects are kept for the choice of recipes (role ``sweep``).

Sizing rule. A relation needs ``SUBJECTS_PER_OBJECT`` subjects an object (one to edit, five neighbours) and, to be worth
choosing from, ``MIN_OBJECTS`` objects: a world of ``size`` facts has ``size // 24`` relations (1 to 15), its facts are
divided evenly among them, and a relation of n facts uses ``n // 6`` of its 30 objects (2 to 30), again evenly. From
1,800 facts on, every relation has 20 or more objects.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from editlab.config.data import MAX_OBJECTS, RESERVED_PER_OBJECT, SUBJECTS_PER_OBJECT, FactsData
from editlab.data.chains import with_chains
from editlab.data.inverses import with_inverses
from editlab.data.requests import NEIGHBOR, SWEEP, EditRequest, fill
from editlab.data.world import ENDINGS, FIRST_WORDS, GENERATION, LINKS, RELATIONS, STEMS, Relation
from editlab.errors import ConfigError
from editlab.randomness import derive_seed, python_rng

NEIGHBORS = 10
ATTRIBUTES = 10
MIN_SIZE = 2 * SUBJECTS_PER_OBJECT
MAX_SIZE = 50_000


def make_facts(
    size: int, seed: int, chains: bool = False, *, facts_a_subject: Literal[1, 5] = 5, sweep_facts: int = 128
) -> list[EditRequest]:
    """Generate ``size`` facts with distinct (subject, relation), byte-identical for the same arguments.

    Each request has 5 paraphrase, 10 neighbourhood, 10 attribute and 4 generation prompts. No subject is a prefix of
    another. case ids are ``f00001``, ``f00002``, ... in an order in which relations and objects are mixed.

    Args:
        chains: add probes over two hops and of inverse relations (:mod:`editlab.data.chains`,
            :mod:`editlab.data.inverses`); nothing else changes.
        facts_a_subject: 5: a subject has a fact of every relation of its kind (7 or 4); 1: of one relation.
        sweep_facts: facts kept for the choice of recipes, at most; also at most a fifth of all.

    Raises:
        ConfigError: ``size`` is not between 12 (two objects with six subjects each) and 50,000.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(f"size: {size} is not allowed; a world has between {MIN_SIZE} and {MAX_SIZE} facts")
    options = FactsData(kind="facts", size=size, facts_a_subject=facts_a_subject, sweep_facts=sweep_facts)
    rng = python_rng("facts", size, seed)
    world = _World(options, rng)
    requests = []
    for number, (subject, relation, true) in enumerate(world.triples, start=1):
        new = rng.choice([item for item in world.objects[relation.identifier] if item != true])
        requests.append(
            EditRequest(
                case_id=f"f{number:05d}",
                prompt=relation.templates[0],
                subject=subject,
                target_new=new,
                target_true=true,
                relation_id=relation.identifier,
                paraphrase_prompts=tuple(fill(template, subject) for template in relation.templates[1:]),
                neighborhood_prompts=world.neighbors(subject, relation, true),
                attribute_prompts=_probes(world.subjects[relation.identifier, new], relation, ATTRIBUTES, rng),
                generation_prompts=tuple(fill(template, subject) for template in GENERATION[relation.kind]),
                reserved_for=NEIGHBOR if subject in world.reserved else "",
            )
        )
    requests = with_sweep_facts(requests, options.kept(size))
    return with_inverses(with_chains(requests)) if chains else requests


class _World:
    """Who there is, and what is true: relations and objects balanced, facts in random order.

    Attributes:
        triples: (subject, relation, true object) of every fact.
        subjects: by (relation, object), those of whom it is true.
        objects: by relation, those that are true of somebody.
        reserved: subjects that no stream edits: :data:`RESERVED_PER_OBJECT` of every object of every relation, or more.
    """

    def __init__(self, options: FactsData, rng: random.Random) -> None:
        self.rng = rng
        self.reserved: set[str] = set()
        count, _, _ = options.shape
        relations = rng.sample(RELATIONS, count)
        shares = {r: options.size // count + (i < options.size % count) for i, r in enumerate(relations)}
        self.triples: list[tuple[str, Relation, str]] = []
        for relation, (reserved, free) in self._people(shares, options.facts_a_subject == 1).items():
            share = shares[relation]
            objects = rng.sample(relation.objects, _objects(share))
            # Shuffled anew for each relation: what is true of a subject in one tells nothing about the others.
            names = rng.sample(reserved, len(reserved)) + rng.sample(free, share - len(reserved))
            self.triples += [
                (name, relation, true) for name, true in zip(names, itertools.cycle(objects), strict=False)
            ]
            self.reserved.update(reserved)
        rng.shuffle(self.triples)
        self.subjects: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.objects: dict[str, list[str]] = defaultdict(list)
        for subject, relation, true in self.triples:
            self.subjects[relation.identifier, true].append(subject)
        for identifier, true in self.subjects:
            self.objects[identifier].append(true)

    def _people(self, shares: Mapping[Relation, int], apart: bool) -> dict[Relation, tuple[list[str], list[str]]]:
        """By relation, its reserved subjects and the others; relations of a kind have the same ones, or each its own."""
        found: dict[Relation, tuple[list[str], list[str]]] = {}
        for kind in dict.fromkeys(relation.kind for relation in shares):
            mine = {relation: share for relation, share in shares.items() if relation.kind == kind}
            most = max(mine.values())
            names = iter(subject_names(kind, sum(mine.values()) if apart else most, self.rng))
            held = RESERVED_PER_OBJECT * _objects(most)
            if not apart:
                everyone = list(names)
                found |= dict.fromkeys(mine, (everyone[:held], everyone[held:]))
                continue
            for relation, share in mine.items():
                own = list(itertools.islice(names, share))
                found[relation] = (own[:held], own[held:])
        return found

    def neighbors(self, subject: str, relation: Relation, true: str) -> tuple[str, ...]:
        """Statements about other subjects of the same object, half of them about reserved ones."""
        others = [name for name in self.subjects[relation.identifier, true] if name != subject]
        half = NEIGHBORS // 2
        held = _probes([name for name in others if name in self.reserved], relation, half, self.rng)
        return held + _probes([name for name in others if name not in self.reserved], relation, half, self.rng)


def _objects(share: int) -> int:
    """Objects of a relation with so many facts."""
    return min(share // SUBJECTS_PER_OBJECT, MAX_OBJECTS)


def with_sweep_facts(requests: Sequence[EditRequest], count: int) -> list[EditRequest]:
    """Keep at most ``count`` facts for the choice of recipes: those of whole subjects and groups, in an order of their own.

    Which they are depends on the data set alone, so that no run edits what another one chose its recipes on.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, request in enumerate(requests):
        if not request.reserved_for:
            members[f"group {request.group}" if request.group else f"subject {request.subject}"].append(position)
    names = sorted(members)
    python_rng("sweep facts", len(requests)).shuffle(names)
    kept: set[int] = set()
    for name in names:
        if len(kept) + len(members[name]) <= count:
            kept.update(members[name])
    return [dataclasses.replace(r, reserved_for=SWEEP) if i in kept else r for i, r in enumerate(requests)]


def _probes(subjects: Sequence[str], relation: Relation, count: int, rng: random.Random) -> tuple[str, ...]:
    """``count`` different statements about the subjects, as many subjects as there are; all templates occur."""
    order = rng.sample(list(subjects), len(subjects))
    start, templates = rng.randrange(len(relation.templates)), len(relation.templates)
    # A subject that comes again, a lap later, has the next template: no statement comes twice.
    laps = [(i % len(order), i // len(order)) for i in range(count)]
    picks = [(order[k], (start + k + lap) % templates) for k, lap in laps]
    return tuple(fill(relation.templates[template], subject) for subject, template in picks)


def subject_names(kind: str, count: int, rng: random.Random) -> list[str]:
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
