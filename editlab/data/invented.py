"""More true statements for a file that states little: about invented subjects, in the file's own words.

A substrate that has only ever seen an object once, or never, can hardly be edited to say it: the new objects of a file in
EasyEdit's form (a prompt, a rephrased one and one neighbour a fact) are mostly such. Official CounterFact records bring ten
other subjects of the old object and ten of the new one. Where a file has few, subjects are invented: names of the generated
world that the file does not use, of whom the old or the new object of a fact is true, in each wording that the file has for
it. They touch no statement of the file itself: no subject of it gains or loses a fact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from editlab.data.facts import subject_names
from editlab.data.fields import PLACEHOLDER
from editlab.data.requests import EditRequest, fill, unfill
from editlab.randomness import python_rng

KIND = "person"
SHORT = 80
"""Characters that a statement may have also where all those of the file are shorter: any context has room for them."""


def invented_statements(
    requests: Sequence[EditRequest], truth: Mapping[str, str], wanted: int
) -> tuple[dict[str, str], list[str]]:
    """Statements about invented subjects until there are ``wanted`` for each fact, as many for its old as for its new object.

    Args:
        requests: facts of a file; those without a true object are passed over.
        truth: prompt -> completion of what the file states.
        wanted: statements a fact, those of the file included.

    Returns:
        prompt -> completion of the new statements (none is longer than the longest of the file or :data:`SHORT`), and the
        invented names.
    """
    facts = [request for request in requests if request.target_true != PLACEHOLDER]
    left = wanted * len(facts) - len(truth)
    longest = max((len(prompt) + len(target) for prompt, target in truth.items()), default=0)
    longest = max(longest, SHORT)
    turns = itertools.cycle(
        [(words, answer) for side in zip(*map(_both, facts), strict=True) for words, answer in side]
    )
    found: dict[str, str] = {}
    names: list[str] = []
    for name, (words, answer) in zip(_unused_names(requests, max(left, 0)), turns, strict=False):
        if len(found) >= left:
            break
        prompts = [prompt for prompt in (fill(template, name) for template in words) if prompt not in truth]
        new = {prompt: answer for prompt in prompts if len(prompt) + len(answer) <= longest}
        found |= new
        names += [name] if new else []
    return found, names


def _both(request: EditRequest) -> list[tuple[list[str], str]]:
    """The wordings of a fact with its old object, and with its new one."""
    words = wordings(request)
    return [(words, request.target_true), (words, request.target_new)]


def wordings(request: EditRequest) -> list[str]:
    """The prompts of a fact with ``{}`` in place of its subject: the rewrite, and the paraphrases that name it."""
    found = [request.prompt]
    for prompt in request.paraphrase_prompts:
        template = unfill(prompt, request.subject)
        if template is not None and request.subject not in template:
            found.append(template)
    return found


def _unused_names(requests: Sequence[EditRequest], count: int) -> Iterator[str]:
    """At least ``count`` invented names of two words, where there are so many of which no subject has a word."""
    known = {word for request in requests for word in request.subject.split()}
    names = subject_names(KIND, 2 * count, python_rng("invented subjects"))
    return (name for name in names if not known & set(name.split()))
