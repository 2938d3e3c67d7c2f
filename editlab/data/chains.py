"""Facts of two hops for the generated world: person -> town -> country, person -> country -> capital.

The objects of some relations are cities and countries; a city lies in a country and a country has a capital. A world with
chains states these facts, and of every subject also the fact over both hops and the answer to a question. When an edit
moves a person to another town, the country that follows is known exactly: the probe is right when the edited model says
that one. Statements are the *conditions* of the probes, what holds before the edits, so that a substrate that learns the
world's statements knows both hops and the way over them.
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
    second: str  # of the object
    both: str  # of the subject, over both hops
    question: str  # the relation itself in other words


_IN_COUNTRY, _CAPITAL = "The city of {} lies in the land of", "The seat of the government of {} is"
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


def _probes(request: EditRequest, chain: Chain) -> list[Probe]:
    old, new = chain.follows[request.target_true], chain.follows[request.target_new]
    both, asked = fill(chain.both, request.subject), fill(chain.question, request.subject)
    hop = Question(fill(chain.second, request.target_new), ((new,),))
    probes = [
        Probe(
            "Question_Form",
            (Question(asked, ((request.target_new,),)),),
            conditions=(Question(asked, ((request.target_true,),)),),
        )
    ]
    if old != new:  # else the answer over both hops does not change
        known = (Question(both, ((old,),)), Question(fill(chain.second, request.target_true), ((old,),)), hop)
        probes.append(Probe(MULTI_HOP, (Question(both, ((new,),)),), conditions=known))
        hops = (Question(request.rewrite_prompt, ((request.target_new,),)), hop)
        probes.append(Probe(SINGLE_HOP, hops, every=True))
    else:
        probes.append(Probe("Relation_Specificity", (fact := Question(both, ((old,),)),), conditions=(fact,)))
    return probes
