"""What else may be asked of a subject: prompts of its other relations. No answers are needed, and none are read.

Facts of one subject share the key at its last token, so that an edit of one changes what is said of all. To hold the others
one has to know what to ask. Which relations fit a subject is taken from a data set (relations that other subjects have together
with the edited one) or from a table of relations by type. A data set's wordings are those of its paraphrases that recur over
subjects, and its rewrite prompts only where there are none: rewrite prompts are what is scored (SS), and stay held out.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from editlab.data.requests import EditRequest
from editlab.errors import DataError
from editlab.randomness import python_rng

ESSENCE = ("{} is a", "{} is known for", "{} has")
"""What can be asked of any subject."""
RARE = 0.1
"""Relations fit that the subjects of a relation have at least this share as often as its most frequent companion."""


@dataclasses.dataclass(frozen=True)
class SubjectPrompts:
    """Relations, their wordings, and which of them fit the same subjects.

    Attributes:
        templates: by relation, wordings with one ``{}`` each.
        fitting: by relation, the others that its subjects have, the most frequent first.
    """

    templates: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    fitting: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_records(cls, records: Iterable[EditRequest]) -> SubjectPrompts:
        """From the facts of a data set; a relation without a name is its prompt."""
        relations: dict[str, set[str]] = defaultdict(set)
        rewrites: dict[str, Counter[str]] = defaultdict(Counter)
        others: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for record in records:
            _, relation = record.key
            relations[record.subject].add(relation)
            rewrites[relation][record.prompt] += 1
            for prompt in record.paraphrase_prompts:
                if prompt.count(record.subject) == 1:
                    others[relation][prompt.replace(record.subject, "{}")].add(record.subject)
        templates = {}
        for relation, own in rewrites.items():
            recurring = sorted(t for t, subjects in others[relation].items() if len(subjects) > 1 and t not in own)
            templates[relation] = tuple(recurring or sorted(own))
        return cls(templates, _companions(relations.values()))

    @classmethod
    def of_table(cls, table: Any, where: str) -> SubjectPrompts:
        """From ``{relation: {"type": ..., "templates": [...]}}``; relations of one type of subject fit one another. A bare list
        of templates has no type.

        Raises:
            DataError: it is no such table, or a template does not hold ``{}`` exactly once.
        """
        if not isinstance(table, Mapping):
            raise DataError(f"{where}: a table of relations must be an object, got {type(table).__name__}")
        templates, types = {}, {}
        for relation, entry in table.items():
            given = entry.get("templates") if isinstance(entry, Mapping) else entry
            types[relation] = str(entry.get("type", "")) if isinstance(entry, Mapping) else ""
            if not isinstance(given, list) or not given:
                raise DataError(f"{where}: relation {relation[:40]!r} must have a list of templates")
            wrong = [t for t in given if not isinstance(t, str) or t.count("{}") != 1]
            if wrong:
                raise DataError(f"{where}: template {str(wrong[0])[:60]!r} must hold '{{}}' exactly once")
            templates[relation] = tuple(given)
        fitting = {r: tuple(o for o in templates if o != r and types[o] == types[r]) for r in templates}
        return cls(templates, fitting)

    def apart(self, share: float, seed: int) -> frozenset[str]:
        """The relations that are never held where ``share`` of them is: drawn by seed, for scores of what was not held."""
        names = sorted(self.templates)
        python_rng("held relations", seed).shuffle(names)
        return frozenset(names[math.ceil(share * len(names)) :])

    def asked_of(self, request: EditRequest, most: int, seed: int, leave_out: Collection[str] = ()) -> list[str]:
        """Templates of at most ``most`` other relations that fit the subject of a request, one wording each; drawn by seed where
        there are more.

        Args:
            leave_out: relations that are not asked for, beside the request's own.
        """
        _, own = request.key
        rng = python_rng("subject prompts", seed, request.case_id)
        fitting = [r for r in self.fitting.get(own, ()) if r not in leave_out and r in self.templates]
        chosen = fitting if len(fitting) <= most else sorted(rng.sample(fitting, most), key=fitting.index)
        return [rng.choice(self.templates[relation]) for relation in chosen]


def _companions(groups: Iterable[Collection[str]]) -> dict[str, tuple[str, ...]]:
    """By relation, those that stand in one group with it often enough, the most frequent first."""
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for group in groups:
        for relation in group:
            together[relation].update(other for other in group if other != relation)
    found = {}
    for relation, counts in together.items():
        least = RARE * max(counts.values(), default=0)
        found[relation] = tuple(sorted((r for r, n in counts.items() if n >= least), key=lambda r: (-counts[r], r)))
    return found
