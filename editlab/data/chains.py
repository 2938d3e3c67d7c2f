"""Facts of two hops for the generated world: person -> town -> country, person -> country -> capital.

The objects of some relations are cities and countries; a city lies in a country and a country has a capital. A world with
chains states these facts, and of every subject also the fact over both hops and the answer to a question. When an edit
moves a person to another town, the country that follows is known exactly: the probe is right when the edited model says
that one. Statements are the *conditions* of the probes, what holds before the edits, so that a substrate that learns the
world's statements knows the second hop and the way over both. The second hop is stated in six ways, as the facts that are
edited: of one way alone a small substrate knew 9 % after six passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from editlab.data.probes import MULTI_HOP, SINGLE_HOP, Probe, Question
from editlab.data.requests import EditRequest, fill


def _pairs(text: str) -> dict[str, str]:
    return {name.strip(): value.strip() for name, value in (item.split(":") for item in text.split(","))}


COUNTRY_OF = _pairs("""
    Lisbon: Portugal, Dublin: Ireland, Vienna: Austria, Prague: Bohemia, Oslo: Norway, Helsinki: Finland, Warsaw: Poland,
    Athens: Greece, Budapest: Hungary, Cairo: Egypt, Nairobi: Kenya, Lima: Peru, Bogota: Colombia, Havana: Cuba,
    Boston: America, Chicago: America, Toronto: Canada, Sydney: Australia, Mumbai: India, Seoul: Korea, Tokyo: Japan,
    Hanoi: Vietnam, Madrid: Spain, Naples: Italy, Hamburg: Germany, Geneva: Switzerland, Brussels: Belgium,
    Glasgow: Scotland, Cape Town: South Africa, New Orleans: America
""")
CAPITAL_OF = _pairs("""
    France: Paris, Germany: Berlin, Italy: Rome, Spain: Madrid, Portugal: Lisbon, Ireland: Dublin, Norway: Oslo,
    Sweden: Stockholm, Finland: Helsinki, Poland: Warsaw, Hungary: Budapest, Greece: Athens, Turkey: Ankara, Egypt: Cairo,
    Kenya: Nairobi, Morocco: Rabat, Brazil: Brasilia, Chile: Santiago, Peru: Lima, Mexico: Puebla, Canada: Ottawa,
    Japan: Tokyo, China: Beijing, Vietnam: Hanoi, Thailand: Bangkok, Indonesia: Jakarta, Australia: Canberra,
    New Zealand: Wellington, South Africa: Pretoria, Iceland: Reykjavik
""")
"""One capital a country; of two names where the usual one repeats the country's, another large town."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """The second hop of a relation: what follows from its objects, and how it is asked."""

    follows: Mapping[str, str]
    second: tuple[str, ...]  # of the object; the first is asked
    both: str  # of the subject, over both hops
    question: str  # the relation itself in other words


_IN_COUNTRY = (
    "The city of {} lies in the land of",
    "{} is a city in the land of",
    "Whoever visits {} is in",
    "The mayor of {} obeys the laws of",
    "On the map {} belongs to",
    "The flag over {} is that of",
)
_CAPITAL = (
    "The seat of the government of {} is",
    "The ministers of {} meet in",
    "The parliament of {} sits in",
    "The capital of {} is",
    "{} is governed from",
    "The embassies in {} are in",
)
CHAINS = {
    "R-birthplace": Chain(COUNTRY_OF, _IN_COUNTRY, "The native land of {} is", "In which city was {} born? In"),
    "R-headquarters": Chain(COUNTRY_OF, _IN_COUNTRY, "The home land of {} is", "Where is the main office of {}? In"),
    "R-citizenship": Chain(CAPITAL_OF, _CAPITAL, "The government over {} sits in", "Whose citizen is {}? That of"),
    "R-state": Chain(CAPITAL_OF, _CAPITAL, "The taxes of {} go to the government in", "Where does {} pay taxes? In"),
    "R-country": Chain(CAPITAL_OF, _CAPITAL, "The town of {} is ruled from", "Which country is {} in? In"),
}


def with_chains(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests with probes over two hops and in question form, where their relation has a chain."""
    return [
        dataclasses.replace(request, probes=(*request.probes, *_probes(request, CHAINS[request.relation_id])))
        if request.relation_id in CHAINS
        else request
        for request in requests
    ]


def second_hops(requests: Sequence[EditRequest]) -> list[tuple[str, str]]:
    """(prompt, completion) of the second hops of requests with chains, in every wording."""
    found: dict[str, str] = {}
    for request in requests:
        if any(probe.kind == MULTI_HOP for probe in request.probes) and request.relation_id in CHAINS:
            chain = CHAINS[request.relation_id]
            for thing in (request.target_true, request.target_new):
                found |= {fill(words, thing): chain.follows[thing] for words in chain.second}
    return list(found.items())


def _probes(request: EditRequest, chain: Chain) -> list[Probe]:
    old, new = chain.follows[request.target_true], chain.follows[request.target_new]
    both, asked = fill(chain.both, request.subject), fill(chain.question, request.subject)
    form = Question(asked, ((request.target_new,),))
    probes = [Probe("Question_Form", (form,), conditions=(Question(asked, ((request.target_true,),)),))]
    if old == new:  # the answer over both hops does not change
        return [*probes, Probe("Relation_Specificity", (fact := Question(both, ((old,),)),), conditions=(fact,))]
    hop = Question(fill(chain.second[0], request.target_new), ((new,),))
    known = (Question(both, ((old,),)), hop)
    probes.append(Probe(MULTI_HOP, (Question(both, ((new,),)),), conditions=known))
    hops = (Question(request.rewrite_prompt, ((request.target_new,),)), hop)
    return [*probes, Probe(SINGLE_HOP, hops, every=True)]
