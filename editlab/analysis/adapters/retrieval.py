"""Retrieval: what an index of deltas finds for a description, and what the adapters found are worth, beside text retrieval."""

from __future__ import annotations

import pandas as pd

from editlab.analysis.adapters.scores import COMBINATIONS, basis, difference, joined, means
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, sheet
from editlab.analysis.text.findings import Finding, size
from editlab.analysis.text.rows import records
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
    columns = [
        Column("index", "index of", "text"),
        Column("query", "query", "text"),
        Column("k", "k", "count"),
        Column("hit_1", "own at 1"),
        Column("hit_3", "own at 3"),
        Column("reciprocal_rank", "own, MRR"),
        Column("hit_part_1", "same position"),
        Column("hit_part_2", "same letters"),
    ]
    legend = (
        f"What is retrieved for the description of a held-out task ({basis(part)}). Own: the adapter of the task itself, which "
        "only the index of training and test holds. Same position, same letters: whether the nearest adapter has the operation."
    )
    return Printed(frame, columns, legend, "retrieval")


def findings(tables: Tables) -> list[Finding]:
    """Zero-shot retrieval of an adapter that nobody described, and deltas against text at each k."""
    found = []
    if "retrieval" in tables:
        table = tables["retrieval"]
        own = table[(table["split"] == COMBINATIONS) & (table["index"] == OPEN)]
        row = records(means(own, ["query"], ["hit_1"]))[0]
        index = f"{level_with(row['hit_1'], row['hit_1_low'], row['hit_1_high'])}"
        sentence = (
            f"A delta predicted from a description finds the unlabelled adapter of its task at the first place in {index} of "
            "the cases."
        )
        ends = float(row["hit_1_low"]), float(row["hit_1_high"])
        found.append(
            Finding("retrieval.unlabelled", sentence, float(row["hit_1"]), *ends, int(row["n"]), True, "retrieval")
        )
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
        sure = row["ci_low"] > 0 or row["ci_high"] < 0
        numbers = row["value"], row["ci_low"], row["ci_high"]
        if sure:
            more = "more" if row["value"] > 0 else "fewer"
            told = f"gets {size(*numbers)} {more} letters right than retrieval by text"
        else:
            told = f"is not separated from retrieval by text ({signed_with(*numbers)} letters)"
        sentence = (
            f"Merging the {k} nearest by predicted delta {told}."
            if k != "1"
            else f"The nearest by predicted delta {told}."
        )
        found.append(Finding(f"retrieval.k_{k}", sentence, *numbers, int(row["n"]), bool(sure), "adapters"))
    return found


TOPIC = Topic(
    name="retrieval",
    title="Retrieval",
    about="retrieval of adapters",
    tables=(Collected("retrieval", retrieval_table, inputs=("retrieved",)),),
    sheets=(retrieval_sheet,),
    reads=("retrieval", "adapters"),
    findings=findings,
)
