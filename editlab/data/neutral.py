"""Neutral text: English that says nothing about the facts, from a grammar or from a local file.

A model that is trained on facts alone would be a table; mixed with neutral sentences it also has ordinary language to
lose, so that perplexity on sentences of another seed shows what an edit damages, and second moments of its activations
are not those of the edited facts only. :func:`neutral_sentences` expands a probabilistic context-free grammar about
weather, animals, gardens, cooking, tools, travel, buildings and rocks; :func:`read_text` takes real text instead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

from editlab.data.requests import read_utf8
from editlab.errors import ConfigError, DataError
from editlab.randomness import python_rng

MIN_WORDS, MAX_WORDS = 8, 25

# One symbol a line: "name: alternative | alternative"; <name> expands to one alternative, each equally likely.
_GRAMMAR = """
sentence: <weather> | <animal> | <garden> | <kitchen> | <workshop> | <travel> | <building> | <rock>
weather: <when>, <sky> <skydid> over the <ground>. \
  | <When>, <sky> <skydid> over the <ground>, and <ground_s> <groundwas>. \
  | If <sky> <skydoes> before <hour>, the <ground> will <groundwill>, <note>. \
  | <sky> <skydid> <for_time> over the <ground>, which <weather_effect>. \
  | The <daytime> was so <weather_adj> that <ground_s> <groundwas> <for_time>, <note>. \
  | Although the <season> had been <weather_adj>, <sky> <skydid> <often>, <note>. \
  | A <weather_adj> <season> was often followed by a <weather_adj> <season> in the <region>, <note>.
sky: heavy rain | light snow | thick fog | a warm wind | a cold breeze | a grey cloud | a sudden storm \
  | fine drizzle | distant thunder | soft hail | a bright haze | a pale mist
skydid: drifted | gathered | settled | passed | lingered | rolled in | returned | faded | spread | broke up
skydoes: returns | clears | passes | fades | arrives | settles
ground: hills | valley | coast | plain | meadows | harbour | marshes | rooftops | fields | moor | islands | cliffs
ground_s: the soil | the path | the road | the grass | the shore | the air | the pond | the pasture
groundwas: stayed wet | turned white | dried slowly | froze hard | became soft | looked dark | felt warm \
  | lay still
groundwill: stay dry | turn green | freeze | flood | soften | recover | be covered in dew
weather_adj: mild | harsh | dry | wet | windy | calm | stormy | humid | frosty | gloomy | cloudy | sunny
weather_effect: pleased the farmers | delayed the harvest | filled the reservoirs | cooled the streets \
  | kept the children indoors | emptied the beaches | surprised the observers
season: spring | summer | autumn | winter
daytime: morning | evening | afternoon | night
region: north | south | highlands | lowlands | mountains | desert | interior | delta
animal: <when>, the <beast> <beastdid> <beastwhere> and <beastdid_to> <beastfood>. \
  | The <beast_adj> <beast> is a <size> <class> that <beastdoes> <beastwhere>, <note>. \
  | <Many> <beasts> <beastdo> <beastwhere> because <beastreason>, <note>. \
  | Unlike the <beast>, the <beast> <beastdoes> <often> and <beastdoes_to> <beastfood>. \
  | The young of the <beast> stay <beastwhere> <for_time>, until <beastreason>, <note>. \
  | <Many> <beasts> were counted <beastwhere> <often>, but only a few <beasts> remained there in <season>. \
  | A <beast_adj> <beast> <beastdid> <beastwhere> while <number> <beasts> <beastdid_to> <beastfood>.
beast: fox | otter | heron | badger | owl | hare | lizard | beetle | salmon | frog | raven | squirrel | goat \
  | turtle | moth
beasts: foxes | otters | herons | badgers | owls | hares | lizards | beetles | frogs | ravens | squirrels | goats \
  | bees | swans
beast_adj: brown | spotted | common | shy | grey | striped | northern | long-tailed | nocturnal | patient \
  | restless
class: animal | hunter | climber | swimmer | creature | species | forager
size: small | large | slender | sturdy | medium-sized | quick | heavy | graceful
beastdid: rested | waited | wandered | slept | hid | crept | circled | landed | paused | appeared
beastdid_to: looked for | found | carried away | fed on | guarded | searched for | shared
beastdoes: lives | nests | hunts | sleeps | hides | feeds | breeds | travels
beastdo: live | nest | hunt | sleep | hide | gather | feed | breed
beastdoes_to: eats | prefers | collects | stores | digs for
beastfood: seeds | berries | insects | roots | worms | small fish | acorns | mushrooms | fallen fruit | snails \
  | leaves
beastwhere: near the stream | under the hedge | in the reeds | among the rocks | in old trees | beside the lake \
  | at the edge of the forest | in tall grass | below the waterfall | on the river bank | in a hollow log
beastreason: food is easy to find there | the nights become shorter | the water is clean | few people walk there \
  | the first snow falls | the branches give shelter | the ground is warm | predators stay away
garden: <when>, the <plants> <plantdid> along the <plot>, where <bed> <groundwas>. \
  | <plantcap> need <need> and should be <care> <often>, <note>. \
  | Once the <plants> have been <care>, the <plot> needs <need> <for_time>. \
  | The <plant_adj> leaves of the <plant> are <care> in <season> and <leafuse>, <note>. \
  | <Many> <plants> grow well beside <plants>, provided that the <plot> gets <need>, <note>. \
  | A <plant> that is <care> too early produces <plant_adj> <fruit> and very little <fruit>, <note>.
plant: oak | willow | fern | rose | apple tree | birch | clover | thistle | ivy | maple | cedar | lavender | poppy
plants: tulips | beans | roses | ferns | potatoes | cabbages | carrots | daisies | onions | lilies | pumpkins \
  | vines
plantcap: Tulips | Beans | Roses | Ferns | Potatoes | Cabbages | Carrots | Pumpkins | Herbs | Young trees
plantdid: flowered | spread | withered | ripened | sprouted | opened | bent low | climbed
plot: wall | orchard | border | greenhouse | terrace | hedge | lawn | slope
bed: the upper bed | the compost | the moss | the gravel | the new lawn | the ditch
need: plenty of light | damp soil | regular water | a little shade | good drainage | rich compost \
  | shelter from wind
care: watered | pruned | planted | thinned | covered | picked | trimmed | moved | cut back
plant_adj: pale | broad | narrow | glossy | bitter | tender | thick | fragrant | small | yellow
leafuse: dried for tea | used as fodder | burned with the weeds | left to rot | mixed into salads \
  | pressed in books
fruit: fruit | nectar | blossom | seed | pollen | foliage
kitchen: <Step>, add the <food> and the <food> to the <pan> and <cook> them <for_time>. \
  | The <food> should be <prepared> before the <food> and the <food> are added to the <pan>. \
  | <when>, the cook <cooked> the <food> with <spice> and served it with <dish>. \
  | A good <meal> is made from <food>, <food> and a pinch of <spice>, <note>. \
  | Fresh <food> keeps longer when it is <prepared> and stored in a <hot> <pan> with <spice>. \
  | The <meal> tasted of <spice>, although the <food> had been <prepared> too <late>. \
  | Do not <cook> the <food> <for_time> if the <pan> is <panstate>, <note>.
food: flour | butter | garlic | rice | cheese | celery | honey | barley | spinach | dough | bacon | milk | pepper \
  | fennel | lentil paste
pan: bowl | pot | oven dish | kettle | frying pan | jar | basin | saucepan
cook: stir | boil | simmer | bake | heat | fry | steam | whisk
cooked: roasted | boiled | baked | mixed | fried | seasoned | stewed | smoked
prepared: chopped | washed | peeled | soaked | grated | sliced | melted | salted | drained | cooled
spice: salt | ginger | mint | parsley | cinnamon | vinegar | mustard | thyme | saffron | lemon juice
dish: warm bread | boiled eggs | a green salad | roast potatoes | a thin sauce | stewed pears | dark beer | hot tea
meal: soup | stew | pie | pudding | breakfast | supper | porridge | omelette | sauce
panstate: too hot | still cold | not clean | very shallow | made of copper | almost full
hot: clean | covered | shallow | large | heated | dry
late: early | late | quickly | finely | roughly | slowly
Step: First | Next | After a while | Meanwhile | Finally | At the end | In a second step
workshop: The <tool> is used to <work> <material>, while the <tool> is better for <material>, <note>. \
  | Before you <work> the <material>, check that the <tool> is <toolstate>. \
  | <when>, the <tool> was <toolstate>, so the <part> had to be <repaired> by hand. \
  | A <toolstate> <tool> can <work> <material> in <duration>, but it leaves the <part> <rough>. \
  | The <part> of the machine was <repaired> with <material> and <material> <often>. \
  | <Many> tools have a <part> of <material> that must be <repaired> <often>, <note>.
tool: hammer | chisel | saw | drill | wrench | file | plane | screwdriver | lathe | knife | axe | pair of pliers \
  | vice
work: cut | shape | split | scrape | bend | join | measure | smooth | fasten
material: oak boards | iron rods | leather | copper wire | sheet metal | glass | clay | pine planks | canvas | wool \
  | brass | rope
toolstate: sharp | clean | oiled | rusty | blunt | cold | loose | well balanced | worn
part: handle | blade | hinge | spring | gear | screw | frame | wheel | lid | axle | bolt
repaired: replaced | tightened | repaired | greased | sanded | glued | painted | filed down | adjusted
rough: rough | smooth | slightly bent | shiny | uneven | warm
duration: a few minutes | one hour | half a day | less than a minute | two hours | no time
travel: <when>, the <vehicle> <left> the <stop> and <went> <along> the <ground>. \
  | The <vehicle> <went> <along> the <ground> <for_time>, although the <stop> was <state>. \
  | Passengers who missed the <vehicle> waited at the <stop> <for_time> and <pastime>, <note>. \
  | A <vehicle> takes <duration> from the <stop> to the <stop> when the road is <state>, <note>. \
  | <Many> travellers <pastime> at the <stop> while the <vehicle> was <state>, <note>. \
  | The <stop> lies <along> the <ground>, and a <vehicle> leaves from there <often>, <note>.
vehicle: train | ferry | bus | tram | carriage | small boat | night train | lorry | cart | barge | balloon
left: left | reached | passed | approached | avoided
went: moved slowly | ran | continued | climbed | turned back | stopped twice | hurried
along: along | behind | beyond | across | not far from | close to
stop: station | pier | crossroads | inn | terminal | bridge | village square | lighthouse | toll gate \
  | ferry landing
state: closed | crowded | empty | under repair | delayed | quiet | badly lit | flooded | easy to find
pastime: read old newspapers | drank coffee | looked at maps | played cards | counted their luggage | slept \
  | told stories | wrote postcards
building: The <house> was built of <stone> and has <number> <rooms> <facing>, <note>. \
  | <when>, <number> <rooms> of the <house> were <restored> with <stone>. \
  | The <rooms> of the <house> are <facing>, so that they stay <temperature> in <season>, <note>. \
  | Behind the <house> stands a <old> <house> whose <rooms> are <restored> <often>. \
  | A <old> staircase of <stone> leads from the <rooms> to the <house>, <note>. \
  | The roof of the <old> <house> was <restored> after <sky> had damaged the <rooms>.
house: mill | library | tower | barn | chapel | warehouse | cottage | town hall | museum | school | theatre \
  | stable | bathhouse
stone: red brick | grey stone | timber | concrete | marble | sandstone | slate | plaster | bamboo
number: two | three | four | five | six | seven | eight | a dozen
rooms: rooms | windows | halls | balconies | cellars | arches | columns | corridors | doors | chimneys
facing: facing the yard | below the roof | on the ground floor | at the rear | around a court | above the entrance
restored: restored | cleaned | painted | rebuilt | removed | measured | opened to visitors | insulated
old: narrow | ancient | modern | ruined | wooden | round | plain | famous | tall
temperature: cool | warm | dry | bright | dark | quiet
rock: <mineral> is a <rock_adj> mineral that forms when <process>, <note>. \
  | When <process>, <layers> of <sediment> are <pressed> into <rock_adj> rock, <note>. \
  | The <layers> in the cliff show that <process> long before <process>, <note>. \
  | Samples of <sediment> were <pressed> and weighed <often> to see whether <process>, <note>. \
  | <mineral> can be told from other minerals by its <rock_adj> surface and its <property>, <note>. \
  | Below the <layers> of <sediment> lies <rock_adj> rock, which is valued for its <property>, <note>.
mineral: Quartz | Calcite | Gypsum | Feldspar | Mica | Garnet | Pyrite | Halite | Olivine
rock_adj: hard | brittle | porous | dense | crystalline | layered | dull | transparent | volcanic
process: hot water cools | lava flows into the sea | a glacier retreats | pressure rises | the sea level falls \
  | minerals dissolve | the crust is folded | a valley fills with silt | ash settles
layers: layers | bands | thin sheets | veins | fragments | deposits
sediment: sand | silt | chalk | gravel | ash | mud | shells | salt crystals
pressed: pressed | baked | compacted | sorted | heated | ground | sifted
property: colour | weight | low density | bright streak | hardness | regular crystals | faint smell
when: <When>
When: In the early <season> | Last <season> | On most days | Some years ago | Toward the end of the <season> \
  | At <hour> | During a <weather_adj> <season> | Shortly before <hour> | Every other week | Long ago
hour: dawn | noon | dusk | midnight | sunrise | sunset | breakfast time
for_time: for <period> | until <hour> | for most of the <season> | without a break | for as long as possible
period: ten minutes | an hour | several days | a week | many months | about half an hour | the whole <season>
often: once a day | twice a year | every <daytime> | at regular intervals | from time to time | now and then
Many: Many | Most | Several | A number of | Few | Some | Nearly all
note: as <who> <noted> in <source> | a claim that <who> made in <source>
who: a visitor | an old guide | two students | a traveller | the committee | local farmers | several experts \
  | the owner | a neighbour | the author
noted: noted | wrote | observed | remarked | explained | argued | reported
source: a letter | a short report | an old diary | the yearbook | a lecture | the local newspaper | a long survey \
  | a handbook | a speech
"""


def neutral_sentences(count: int, seed: int) -> list[str]:
    """``count`` sentences of 8 to 25 words each, drawn independently; the first n are those of a smaller ``count``.

    Different seeds give practically disjoint texts: use one for training and another for held-out perplexity.

    Raises:
        ConfigError: ``count`` is negative.
    """
    if count < 0:
        raise ConfigError(f"count: {count} is not allowed; it must be 0 or more")
    rng, grammar = python_rng("neutral", seed), _parse(_GRAMMAR)
    sentences: list[str] = []
    while len(sentences) < count:
        sentence = _polish(_expand("sentence", grammar, rng))
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            sentences.append(sentence)
    return sentences


def read_text(path: str | Path) -> list[str]:
    """Paragraphs of a local UTF-8 text file: its non-empty lines, without WikiText's ``= headings =``.

    Raises:
        DataError: the file is missing, a directory, empty, not UTF-8 text, binary, or holds headings only.
    """
    text = read_utf8(path)
    if "\0" in text:
        raise DataError(f"{path}: not a text file (it holds NUL bytes)")
    lines = (line.strip() for line in text.split("\n"))
    paragraphs = [line for line in lines if line and not re.fullmatch(r"=.*=", line)]
    if not paragraphs:
        raise DataError(f"{path}: holds no paragraph of text")
    return paragraphs


def _parse(grammar: str) -> dict[str, list[str]]:
    rules = {}
    for line in grammar.replace("\\\n", " ").strip().splitlines():
        symbol, alternatives = line.split(":", 1)
        rules[symbol] = [" ".join(alternative.split()) for alternative in alternatives.split("|")]
    return rules


def _expand(symbol: str, grammar: Mapping[str, list[str]], rng: random.Random) -> str:
    return re.sub(r"<(\w+)>", lambda match: _expand(match[1], grammar, rng), rng.choice(grammar[symbol]))


def _polish(sentence: str) -> str:
    """A capital at the start, and "an" before vowels."""
    sentence = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)
    return sentence[0].upper() + sentence[1:]
