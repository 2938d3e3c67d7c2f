"""Retrieval: what an index of deltas finds for a description, and what the adapters found are worth, beside text retrieval."""

from __future__ import annotations

import pandas as pd

from editlab.analysis.adapters.scores import COMBINATIONS, basis, difference, joined, means
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, sheet
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.text.findings import Finding, direction, size
from editlab.analysis.text.wording import level_with, signed_with

OPEN = "training and test"


def retrieval_table(run: Run) -> pd.DataFrame:
    """What was retrieved for every held-out task."""
    return joined(run, "retrieved")


@sheet("adapter_retrieval", "Retrieved adapters", "retrieval", level=6)
def retrieval_sheet(tables: Tables) -> Printed:
    """Hits by index, query and k."""
    table = tables["retrieval"]
    part = table[table["split"] == COMBINATIONS]
    scores = ["hit_1", "hit_3", "reciprocal_rank", *[c for c in map(str, table) if c.startswith("hit_part_")]]
    frame = means(part, ["index", "query", "k"], scores)
    heads = {"hit_1": "own at 1", "hit_3": "own at 3", "reciprocal_rank": "own, MRR"}
    heads |= {"hit_part_1": "same position", "hit_part_2": "same letters"}
    places = columns_of({"index": "index of", "query": "query"}, "text")
    columns = [*places, Column("k", "k", "count"), *columns_of(heads)]
    legend = (
        f"What is retrieved for the description of a held-out task ({basis(part)}). Own: the adapter of the task itself, which "
        "only the index of training and test holds. Same position, same letters: whether the nearest adapter has the operation."
    )
    return Printed(frame, columns, legend)


def findings(tables: Tables) -> list[Finding]:
    """Zero-shot retrieval of an adapter that nobody described, and deltas against text at each k."""
    found = []
    if "retrieval" in tables:
        table = tables["retrieval"]
        own = table[(table["split"] == COMBINATIONS) & (table["index"] == OPEN)]
        row = records(means(own, ["query"], ["hit_1"]))[0]
        first = Interval.of(row, "hit_1")
        sentence = (
            f"A delta predicted from a description finds the unlabelled adapter of its task at the first place in "
            f"{level_with(*first)} of the cases."
        )
        found.append(Finding("retrieval.unlabelled", sentence, *first, int(row["n"]), True, "retrieval"))
    if "adapters" in tables:
        found += _against_text(tables["adapters"])
    return found


def _against_text(table: pd.DataFrame) -> list[Finding]:
    part = table[(table["split"] == COMBINATIONS) & (table["group"] == "retrieval")]
    found = []
    for method in dict.fromkeys(part["method"]):
        if not (method.startswith("B2b delta") and method.endswith("uniform")):
            continue
        k = method.split("k = ")[1].split(",")[0]
        rival = method.replace("delta", "text")
        row = difference(part[part["method"] == method], part[part["method"] == rival], "letters")
        numbers = Interval.of(row)
        told = f"is not separated from retrieval by text ({signed_with(*numbers)} letters)"
        if more := direction(numbers.low, numbers.high, "more", "fewer"):
            told = f"gets {size(*numbers)} {more} letters right than retrieval by text"
        what = "The nearest" if k == "1" else f"Merging the {k} nearest"
        sentence = f"{what} by predicted delta {told}."
        found.append(Finding(f"retrieval.k_{k}", sentence, *numbers, int(row["n"]), numbers.clear, "adapters"))
    return found


TOPIC = Topic(
    "Retrieval",
    about="retrieval of adapters",
    tables=(Collected("retrieval", retrieval_table, inputs=("retrieved",)),),
    reads=("retrieval", "adapters"),
)
