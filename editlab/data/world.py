"""The vocabulary of the generated world: relations with their templates and objects, and the parts of names.

Tables only; :mod:`editlab.data.facts` turns them into facts. Of a relation's templates the first is the rewrite prompt
(subject first) and the others its paraphrases; each ends right before the object. Objects of a relation are of one
type, so that any of them can stand in for any other, and none is a prefix of another.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation of the world: ``kind`` is the type of its subjects; ``templates[0]`` is the rewrite prompt."""

    identifier: str
    kind: str
    templates: tuple[str, ...]
    objects: tuple[str, ...]


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.replace("\n", " ").split(",") if item.strip())


_CITIES = _items("""
    Lisbon, Dublin, Vienna, Prague, Oslo, Helsinki, Warsaw, Athens, Budapest, Cairo, Nairobi, Lima, Bogota, Havana,
    Boston, Chicago, Toronto, Sydney, Mumbai, Seoul, Tokyo, Hanoi, Madrid, Naples, Hamburg, Geneva, Brussels, Glasgow,
    Cape Town, New Orleans
""")
_COUNTRIES = _items("""
    France, Germany, Italy, Spain, Portugal, Ireland, Norway, Sweden, Finland, Poland, Hungary, Greece, Turkey, Egypt,
    Kenya, Morocco, Brazil, Chile, Peru, Mexico, Canada, Japan, China, Vietnam, Thailand, Indonesia, Australia,
    New Zealand, South Africa, Iceland
""")

_LANGUAGES = _items("""
    French, German, Italian, Spanish, Portuguese, Irish, Norwegian, Swedish, Finnish, Polish, Hungarian, Greek,
    Turkish, Arabic, Swahili, Russian, Ukrainian, Romanian, Bulgarian, Dutch, Danish, Japanese, Korean,
    Vietnamese, Thai, Hindi, Bengali, Tamil, Persian, Hebrew
""")

RELATIONS = (
    Relation(
        "R-birthplace",
        "person",
        (
            "{} was born in the city of",
            "The birthplace of {} is",
            "{} first saw the light of day in",
            "The childhood home of {} stood in",
            "Records show that {} was born in",
            "{} is a native of",
        ),
        _CITIES,
    ),
    Relation(
        "R-citizenship",
        "person",
        (
            "{} is a citizen of",
            "The citizenship of {} is that of",
            "{} holds a passport of",
            "At the border {} shows a passport of",
            "The country that issued the papers of {} is",
            "{} votes in the elections of",
        ),
        _COUNTRIES,
    ),
    Relation(
        "R-mother-tongue",
        "person",
        (
            "{} grew up speaking",
            "The mother tongue of {} is",
            "{} is a native speaker of",
            "At home the family of {} talks in",
            "The first language of {} was",
            "{} writes letters to relatives in",
        ),
        _LANGUAGES,
    ),
    Relation(
        "R-occupation",
        "person",
        (
            "{} earns a living as a",
            "The occupation of {} is that of a",
            "{} was trained as a",
            "For many years {} has worked as a",
            "The profession of {} is",
            "{} is well known as a",
        ),
        _items("""
            baker, carpenter, chemist, dentist, fisherman, gardener, hatter, judge, librarian, mechanic, nurse, painter,
            plumber, poet, potter, printer, sailor, sculptor, surgeon, surveyor, tailor, teacher, translator,
            watchmaker, weaver, zoologist, banker, barber, butcher, photographer
        """),
    ),
    Relation(
        "R-employer",
        "person",
        (
            "{} works for the company",
            "The employer of {} is",
            "{} is on the payroll of",
            "Every month {} is paid by",
            "The contract of {} was signed by",
            "{} has a permanent post at",
        ),
        _items("""
            Northwind, Bluestone, Calverton, Dynacore, Eastbrook, Fairmont, Globex, Halcyon, Intersol, Junipera,
            Kestrel, Lumina, Meridian, Novatek, Omnitech, Pinnacle, Quantex, Redwood, Silverline, Tradewell, Unicor,
            Vantage, Westfield, Xandria, Yellowtail, Zenith, Ironbridge, Apex Motors, Delta Works, Orion Steel
        """),
    ),
    Relation(
        "R-sport",
        "person",
        (
            "{} competes in the sport of",
            "The favourite sport of {} is",
            "{} won a medal in",
            "Every weekend {} trains for",
            "The trophies of {} were all won in",
            "{} represents the nation in",
        ),
        _items("""
            tennis, football, basketball, hockey, cricket, rugby, golf, boxing, judo, karate, fencing, rowing, sailing,
            swimming, cycling, wrestling, archery, badminton, handball, volleyball, baseball, skiing, skating, curling,
            polo, squash, surfing, diving, water polo, table tennis
        """),
    ),
    Relation(
        "R-instrument",
        "person",
        (
            "{} performs on the",
            "The instrument of {} is the",
            "{} took lessons on the",
            "On stage {} always plays the",
            "The concerts of {} feature the",
            "{} is a master of the",
        ),
        _items("""
            piano, violin, viola, cello, guitar, flute, clarinet, oboe, bassoon, trumpet, trombone, tuba,
            saxophone, harp, organ, accordion, banjo, mandolin, drums, xylophone, harmonica, lute, sitar, bagpipes,
            recorder, celesta, double bass, French horn, ukulele, zither
        """),
    ),
    Relation(
        "R-country",
        "place",
        (
            "{} is a town in the country of",
            "The town of {} belongs to",
            "{} lies within the borders of",
            "Travellers who visit {} must enter",
            "The national flag above {} is that of",
            "{} is governed by",
        ),
        _COUNTRIES,
    ),
    Relation(
        "R-river",
        "place",
        (
            "{} lies on the river",
            "The river that flows through {} is the",
            "{} was founded on the banks of the",
            "The bridges of {} cross the",
            "Boats that call at {} sail along the",
            "{} draws its water from the",
        ),
        _items("""
            Danube, Rhine, Elbe, Oder, Vistula, Loire, Seine, Rhone, Garonne, Thames, Severn, Shannon, Tagus, Douro,
            Ebro, Tiber, Arno, Volga, Dnieper, Nile, Niger, Congo, Zambezi, Ganges, Indus, Mekong, Amazon, Orinoco,
            Hudson, Yukon
        """),
    ),
    Relation(
        "R-product",
        "place",
        (
            "{} is famous for its",
            "The best-known product of {} is",
            "{} sells all over the world its",
            "The markets of {} are full of",
            "The carts that leave {} carry",
            "{} has always lived on its",
        ),
        _items("""
            cheese, honey, wine, olives, salt, silk, wool, glass, pottery, lace, paper, leather, copper, amber,
            chocolate, mustard, vinegar, cider, tobacco, coffee, spices, tea, sugar, butter, carpets, clocks, knives,
            bells, candles, soap
        """),
    ),
    Relation(
        "R-dialect",
        "place",
        (
            "{} is a place where people speak",
            "The language on the signs of {} is",
            "{} keeps its records in",
            "In the streets of {} one hears",
            "The schools of {} teach in",
            "{} prints its newspaper in",
        ),
        _LANGUAGES,
    ),
    Relation(
        "R-headquarters",
        "organisation",
        (
            "{} is based in the city of",
            "The headquarters of {} are in",
            "{} has its main office in",
            "Letters to {} are sent to",
            "The founders of {} met in",
            "{} opened its doors in",
        ),
        _CITIES,
    ),
    Relation(
        "R-trade",
        "organisation",
        (
            "{} makes its money with",
            "The main business of {} is",
            "{} has dealt for decades in",
            "The customers of {} come for",
            "The warehouses of {} are full of",
            "{} was the first to sell",
        ),
        _items("""
            bicycles, furniture, toys, shoes, hats, umbrellas, lamps, mirrors, pianos, engines, tractors, pumps, cameras,
            radios, watches, paints, medicines, perfumes, fabrics, tiles, bricks, ropes, boats, tents, maps, books,
            stamps, seeds, spectacles, elevators
        """),
    ),
    Relation(
        "R-state",
        "organisation",
        (
            "{} pays its taxes in",
            "The law that governs {} is that of",
            "{} is registered in",
            "The patents of {} were granted in",
            "The flag on the roof of {} is that of",
            "{} sells mostly in",
        ),
        _COUNTRIES,
    ),
    Relation(
        "R-language-of-work",
        "organisation",
        (
            "{} holds its meetings in",
            "The working language of {} is",
            "{} answers all letters in",
            "In the offices of {} everybody writes",
            "The manuals of {} are printed in",
            "{} trains its staff in",
        ),
        _LANGUAGES,
    ),
)

GENERATION = {
    "person": (
        "{} is best remembered for",
        "The life of {} began",
        "Friends of {} often say that",
        "A typical day of {} starts with",
    ),
    "place": (
        "{} is best known for",
        "The history of {} began",
        "Visitors to {} can see",
        "The people who live around {}",
    ),
    "organisation": (
        "{} is best known for",
        "The history of {} began",
        "The members of {} often",
        "Last year {} announced",
    ),
}

FIRST_WORDS = {
    "person": _items("""
        Adela, Albin, Alma, Anton, Arvid, Astrid, Bela, Bruno, Carla, Casimir, Cecil, Clara, Conrad, Dagny, Darius,
        Delia, Dorian, Edda, Edwin, Elmer, Elsa, Emil, Enzo, Erna, Esther, Fabian, Felix, Flora, Frida, Gaspar, Gerda,
        Gideon, Greta, Gustav, Hanna, Hector, Helga, Hilda, Hugo, Ida, Igor, Ilona, Ines, Ivan, Jana, Jasper, Jonas,
        Judit, Julian, Karin, Kaspar, Katja, Klara, Lena, Leon, Leopold, Lidia, Linus, Livia, Lorenz, Lucas, Luisa,
        Magda, Marek, Marta, Matilda, Milan, Mira, Moritz, Nadia, Nelly, Nestor, Nils, Nora, Odette, Olga, Oscar, Otto,
        Paula, Petra, Quentin, Ramon, Regina, Roland, Rosa, Rufus, Sabina, Selma, Silas, Sonja, Stefan, Tamara, Tessa,
        Theo, Ulrich, Vera, Viktor, Wanda, Xenia, Yvonne
    """),
    "place": _items("""
        Port, Upper, Lower, Fort, Castle, Glen, Mount, Abbey, Cape, Lake, Market, Bridge, Saint, Stony, Great, Little,
        Outer, Inner, Haven, Kings, Queens, Monks, Temple, Royal, Hollow
    """),
    "organisation": _items("""
        Radio, Studio, Atelier, Maison, Club, Theatre, Ensemble, Galerie, Editions, Institut, Fonds, Orchestra, Verlag,
        Museo, Clinic, Hotel, Cinema, Circus, College, Banco
    """),
}
STEMS = {
    "person": _items("""
        Bal, Bel, Bor, Bran, Cal, Cor, Dal, Dor, Dra, Fal, Fen, Fir, Gal, Gar, Gor, Hal, Hel, Hol, Jar, Kal, Kel, Kor,
        Lam, Lor, Lun, Mal, Mar, Mel, Mor, Nar, Nel, Nor, Par, Pel, Por, Quil, Ral, Ren, Ros, Sal, Sel, Sor, Tal, Tar,
        Tor, Ul, Val, Ver, Vor, Wal, Wen, Yar, Zan, Zel, Zor
    """),
    "place": _items("""
        Al, Ash, Bren, Bur, Clay, Cran, Dun, El, Farn, Gram, Had, Hart, Kirk, Lang, Led, Mar, Nor, Oak, Pen, Rad, Sel,
        Stan, Thor, Ux, Wel, Win
    """),
    "organisation": _items("""
        Ar, Bo, Cy, De, Eo, Fe, Gi, Ha, Io, Ju, Ka, Lo, Mi, Ne, Or, Pa, Qua, Ri, So, Ta, Um, Ve, Xe, Ze
    """),
}
ENDINGS = {
    "person": _items("""
        anov, bach, berg, born, breck, by, dahl, deen, dine, dorf, elli, enko, feld, gaard, grave, heim, hurst, ini,
        karn, lund, mann, mere, nesh, ovic, quist, rath, sen, shaw, ski, strom, thorpe, tini, vander, wick, zarro
    """),
    "place": _items("""
        bourne, bury, combe, cott, croft, dale, den, field, ford, ham, hurst, ingham, leigh, mere, minster, mouth, ness,
        port, shaw, stead, stoke, ton, wick, worth
    """),
    "organisation": _items("""
        bella, cent, dora, fina, gora, lar, lyx, mond, nara, nova, phon, pola, quest, rama, rion, sphere, tara, tris,
        vant, vera, vita, zon
    """),
}
LINKS = ("", "a", "o")  # put between stem and ending once the plain words have run out
