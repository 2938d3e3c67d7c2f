"""Where each method falls short of a model that was trained on the new facts, stream by stream.

That model was trained once, on the facts of all streams and in the wordings that are scored: it does not have to generalise to
paraphrases, and its neighbours and other facts of a subject are those that no stream edits, other ones than a method's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from editlab.analysis.edit.portability import FEW, MEASURE, WRITTEN
from editlab.analysis.edit.printing import METHOD
from editlab.analysis.edit.scores import CONTROLS, SETTING, TRAINED, final_success, headline
from editlab.analysis.edit.streams import of_trained
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.topic import Tables, Topic, sheet
from editlab.analysis.statistics.intervals import grouped, records
from editlab.analysis.statistics.streams import ENOUGH, Estimate, holm, over_streams
from editlab.analysis.text.findings import ALPHA, Finding
from editlab.analysis.text.wording import label, level, listed, signed_with

READ = ("ablation_matrix", "portability", "trained_model")
SCORED = {  # columns of an ablation matrix
    "ES_exact": "exact answers to the edited facts",
    "PS": "paraphrases",
    "NS_exact": "exact answers about neighbours",
    "SS_exact": "exact answers about the subjects' other facts",
}
PROBED = {  # kinds of probes
    WRITTEN: "writing the edited facts",
    "Question_Form": "questions in another form",
    "Subject_Aliasing": "questions by an alias",
    "multi_hop": "questions over two hops",
}
ASKED = SCORED | PROBED
HEADS = ("exact", "PS", "NS exact", "SS exact", "written", "question", "alias", "two hops")


def by_stream(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Shares of all that is asked, at the headline settings: one row a (setting, seed), a column each of :data:`ASKED`, NaN
    where too few cases stand for it."""
    matrix, portability, trained = (tables[name] for name in READ)
    keys = [*SETTING, "seed"]
    scored = final_success(pd.concat([matrix, trained], ignore_index=True)).reindex(columns=[*keys, *SCORED])
    probes = portability[(portability["protocol"] == MEASURE) & portability["metric"].isin(PROBED)]
    enough = probes.groupby([*SETTING, "metric"])["n"].transform("sum") >= FEW
    wide = probes[enough].pivot_table(index=keys, columns="metric", values="value").reset_index()
    return headline(scored).merge(wide.reindex(columns=[*keys, *PROBED]), on=keys, how="left")


def shortfalls(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Differences of every contestant to the trained model on the same streams.

    Returns:
        one row a (setting, asked): a (the method's share), b (the trained model's), value, low, high (Student's over streams),
        p_holm (the family: all that is asked of a method), streams. None of a run without a trained model.
    """
    columns = [*SETTING, "asked", "a", "b", *Estimate._fields, "p_holm", "streams"]
    if tables["trained_model"].empty or tables["portability"].empty:
        return pd.DataFrame(columns=columns)
    rows = by_stream(tables)
    ceiling = rows[rows["method"] == TRAINED].set_index("seed")
    inside = rows[~rows["method"].isin([*CONTROLS, TRAINED])]
    found: list[dict[str, Any]] = []
    for setting, part in inside.groupby(list(SETTING), sort=False):
        own = part.set_index("seed")
        for name in ASKED:
            pair = pd.DataFrame({"a": own[name], "b": ceiling[name]}).dropna()
            if len(pair):
                told = {
                    "asked": name,
                    **pair.mean(),
                    **over_streams(pair["a"] - pair["b"])._asdict(),
                    "streams": len(pair),
                }
                found.append({**dict(zip(SETTING, setting, strict=True)), **told})
    table = pd.DataFrame(found, columns=columns)
    for _, part in table.groupby(list(SETTING), sort=False):
        table.loc[part.index, "p_holm"] = holm(part["p_value"].astype(float).tolist())
    return table


@sheet("shortfalls", "Against a model trained on the new facts", *READ, level=7)
def shortfalls_sheet(tables: Tables) -> Printed:
    """Differences to the trained model: one row a method, a column for all that is asked."""
    table = shortfalls(tables)

    def told(part: pd.DataFrame) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for r in records(part):
            ends = {"": r["value"], "_low": r["low"], "_high": r["high"], "_best": r["p_holm"] < ALPHA}
            row |= {f"{r['asked']}{end}": number for end, number in ends.items()}
        return row

    streams = int(table["streams"].max()) if len(table) else 0
    legend = (
        "Shares of a method less those of a model that was trained on the new facts, after the stream, with 95 % intervals over "
        f"streams (n = {streams}); bold: p < .05 after Holm's correction for all that is asked of a method. Exact, NS exact, SS "
        "exact: exact answers to the edited facts, about neighbours and about the subjects' other facts; PS: success on "
        "paraphrases; written, question, alias, two hops: exact match of what the model writes, asked for the fact, in "
        f"another form, by an alias of the subject, over two hops.{of_trained(tables)}"
    )
    columns = [Column(name, head, "difference") for name, head in zip(ASKED, HEADS, strict=True)]
    return Printed(grouped(table, SETTING, told), [METHOD, *columns], legend)


def findings(tables: Tables) -> Iterator[Finding]:
    """In what each method falls short beyond doubt, the largest difference first."""
    table = shortfalls(tables)
    for setting, part in table.groupby(list(SETTING), sort=False):
        name, ordered, alike = label(str(setting[0])), part.dropna(subset="p_holm").sort_values("value"), _alike(part)
        sure = ordered[(ordered["high"] < 0) & (ordered["p_holm"] < ALPHA)]
        if len(sure):
            first, *more = records(sure)
            gap = f"{level(first['a'])} against {level(first['b'])}, {_signed(first)}"
            also = f"; also in {listed([ASKED[r['asked']] for r in more])}" if more else ""
            sentence = (
                f"{name} falls short of a model trained on the new facts in {ASKED[first['asked']]}: {gap}{also}."
            )
        elif len(ordered):
            first = records(ordered.sort_values("value", key=abs))[-1]
            what = f"it differs most in {ASKED[first['asked']]}, {_signed(first)}"
            sentence = f"{name} is not shown to fall short of a model trained on the new facts; {what}."
        elif alike:
            first, sentence = records(part)[0], f"{name} differs from a model trained on the new facts."
        else:
            continue
        number = (first["value"], first["low"], first["high"])
        yield Finding(
            f"shortfalls.{setting[0]}",
            sentence + alike,
            *number,
            int(first["streams"]),
            bool(len(sure)),
            "ablation_matrix",
        )


def _signed(row: Mapping[str, Any]) -> str:
    return signed_with(row["value"], row["low"], row["high"])


def _alike(part: pd.DataFrame) -> str:
    """In what a method is behind by the same in every stream, which leaves no spread for an interval."""
    no_spread = part["p_holm"].isna() & (part["streams"] >= ENOUGH)  # of fewer streams nothing is known
    alike = [r for r in records(part[no_spread]) if r["value"] < 0]
    if not alike:
        return ""
    told = [f"{ASKED[r['asked']]} ({level(r['a'])} against {level(r['b'])})" for r in alike]
    return f" By the same in every stream, hence without an interval, it is behind in {listed(told)}."


TOPIC = Topic("Where each falls short", about="a model trained on the new facts", reads=READ, sentences=3)
