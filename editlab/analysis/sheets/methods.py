"""Tables over the matrix: methods side by side, every setting, what batch size and replay do, what it costs."""

from __future__ import annotations

import pandas as pd

from editlab.analysis.comparisons import clear_winner
from editlab.analysis.intervals import mean_table
from editlab.analysis.latex import Column
from editlab.analysis.rows import largest
from editlab.analysis.scores import (
    SCORES,
    SETTING,
    at,
    controls,
    count,
    headline,
    headline_settings,
    pooled_scores,
    wide,
)
from editlab.analysis.sheets.base import DIFFERENCE_COLUMNS, SCORE_COLUMNS, Sheet, Tables, differences_wide
from editlab.analysis.wording import counted, stands_on

METHOD = Column("method", "method", "method")
BATCH, RANK = Column("batch", "batch", "count"), Column("rank", "rank", "count")
REPLAY = Column("replay", "replay", "level", 1)
PERPLEXITY = Column("perplexity", "PPL", "level", 1)
BOLD = "bold: the best method, where its paired difference to every other one (controls apart) excludes zero"
INTERVALS = "Success at the end of the stream with 95 % intervals over cases and seeds"


def methods(tables: Tables) -> Sheet:
    """The headline: one row a method at its headline setting, best S first, controls last."""
    matrix, compared = tables["matrix"], tables["comparisons"]
    frame = wide(headline(pooled_scores(matrix)))
    outside = controls(matrix)
    frame = frame.assign(control=frame["method"].isin(outside))
    frame = frame.sort_values(["control", "S"], ascending=[True, False], kind="stable").reset_index(drop=True)
    inside = list(frame.loc[~frame["control"], "method"])
    for metric in SCORES:
        frame[f"{metric}_best"] = False
        if inside:
            top = largest(frame[~frame["control"]], metric)["method"]
            frame[f"{metric}_best"] = (frame["method"] == top) & clear_winner(compared, top, inside, metric)
    frame = frame.merge(_side_effects(matrix), on=list(SETTING), how="left")
    edits = counted(int(matrix["edits"].max()), "edit")
    caption = f"{INTERVALS}: {edits}, no replay ({stands_on(*count(frame))}); {BOLD}. PPL: perplexity of held-out text."
    return Sheet(frame, [METHOD, BATCH, *SCORE_COLUMNS, PERPLEXITY], caption, "results/ablation_matrix.csv")


def _side_effects(matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean perplexity and entropy of generated text over seeds, by setting."""
    cells = matrix.drop_duplicates([*SETTING, "seed"])
    names = [c for c in ("perplexity", "GE") if c in cells]
    return cells.groupby(list(SETTING), sort=False)[names].mean().reset_index()


def ablation(tables: Tables) -> Sheet:
    """Every setting of the matrix, seeds together; bold within each block of equal batch, replay and rank."""
    return _every_setting(tables, tables["comparisons"], "results/ablation_matrix.csv", "Every setting of the matrix. ")


def combined(tables: Tables) -> Sheet:
    """Replay, LoRA and trust alone and together."""
    first = "Replay, low-rank storage and trust, alone and together, on streams with harmful batches. "
    return _every_setting(tables, None, "results/combined.csv", first)


def quick_validation(tables: Tables) -> Sheet:
    """The small check of one method."""
    return _every_setting(tables, None, "results/quick_validation.csv", "Quick validation. ")


def _every_setting(tables: Tables, compared: pd.DataFrame | None, source: str, first: str) -> Sheet:
    frame = wide(pooled_scores(tables["matrix"]))
    if compared is not None and len(frame):
        _mark_best(frame, compared, controls(tables["matrix"]))
    said = f"; {BOLD}, in the same block" if compared is not None else ""
    caption = f"{first}{INTERVALS} ({stands_on(*count(frame))}){said}."
    ranked = [RANK] if len(frame) and frame["rank"].nunique() > 1 else []
    columns = [METHOD, BATCH, REPLAY, *ranked, *SCORE_COLUMNS, Column("seeds", "seeds", "count")]
    return Sheet(frame, columns, caption, source)


def _mark_best(frame: pd.DataFrame, compared: pd.DataFrame, outside: list[str]) -> None:
    """Set ``{metric}_best`` where the paired test supports it: in each block the top against all others of the block."""
    axes = ["batch", "replay", "rank"]
    blocks = frame[~frame["method"].isin(outside)].groupby(axes, sort=False)
    for metric in SCORES:
        frame[f"{metric}_best"] = False
        best = compared[(compared["kind"] == "best") & (compared["metric"] == metric)]
        for key, part in blocks:
            place = (best["a_batch"] == key[0]) & (best["a_replay"] == key[1]) & (best["a_rank"] == key[2])
            top = largest(part, metric)["method"]
            if clear_winner(best[place], top, list(part["method"]), metric, "best"):
                here = (frame[axes] == list(key)).all(axis=1) & (frame["method"] == top)
                frame.loc[here, f"{metric}_best"] = True


EXCLUDES = "bold: the interval excludes zero"


def batch_effect(tables: Tables) -> Sheet:
    """Each method's largest against its smallest batch, on the same cases."""
    compared = tables["comparisons"]
    rows = compared[compared["kind"] == "batch"].rename(columns={"a": "method", "b_batch": "from", "a_batch": "to"})
    frame = differences_wide(rows, ["method", "from", "to"])
    caption = (
        "What a larger batch changes: paired differences on the same cases with 95 % intervals, no replay"
        f"{_basis(frame)}; {EXCLUDES}."
    )
    columns = [METHOD, Column("from", "from", "count"), Column("to", "to", "count"), *DIFFERENCE_COLUMNS]
    return Sheet(frame, columns, caption, "results/comparisons.csv")


def replay_effect(tables: Tables) -> Sheet:
    """Each replay rate of a method against none, on the same cases."""
    compared = tables["comparisons"]
    rows = compared[compared["kind"] == "replay"].rename(
        columns={"a": "method", "a_batch": "batch", "a_replay": "replay"}
    )
    frame = differences_wide(rows, ["method", "batch", "replay"])
    caption = (
        "What replay changes: paired differences to no replay on the same cases with 95 % intervals"
        f"{_basis(frame)}; {EXCLUDES}."
    )
    return Sheet(frame, [METHOD, BATCH, REPLAY, *DIFFERENCE_COLUMNS], caption, "results/comparisons.csv")


def _basis(frame: pd.DataFrame) -> str:
    return f" ({stands_on(*count(frame))})" if len(frame) else ""


def costs(tables: Tables) -> Sheet:
    """Measured time and memory of each method at its headline setting, with the range over seeds."""
    table = tables["costs"]
    chosen = at(table, headline_settings(table)) if len(table) else table
    chosen = chosen.assign(editing=sum(chosen[f"cpu_{s}"] for s in ("targets", "keys", "solve", "commit", "trust")))
    rows = []
    for key, part in chosen.groupby(list(SETTING), sort=False):
        row = dict(zip(SETTING, key, strict=True)) | {"seeds": len(part)}
        for name in ("seconds_per_edit", "editing", "cpu_targets", "cpu_solve", "cpu_evaluate", "peak_memory_mb"):
            row |= {name: part[name].mean(), f"{name}_low": part[name].min(), f"{name}_high": part[name].max()}
        rows.append(row)
    frame = pd.DataFrame(rows)
    seeds = int(frame["seeds"].max()) if len(frame) else 0
    caption = (
        f"Measured cost of a cell: mean and range over {counted(seeds, 'seed')}. Editing, targets, solve and evaluation in CPU "
        "seconds; ms an edit on the wall clock. Times differ from run to run."
    )
    columns = [
        METHOD,
        BATCH,
        Column("seconds_per_edit", "ms/edit", "level", 0, 1000.0),
        Column("editing", "editing", "level", 1),
        Column("cpu_targets", "targets", "level", 1),
        Column("cpu_solve", "solve", "level", 1),
        Column("cpu_evaluate", "eval.", "level", 1),
        Column("peak_memory_mb", "MB", "count"),
    ]
    return Sheet(frame, columns, caption, "results/costs.csv")


def baselines(tables: Tables) -> Sheet:
    """ROME, MEMIT and EMMET on the same facts: scores, time and memory."""
    matrix = tables["matrix"]
    frame = wide(pooled_scores(matrix))
    final = matrix[(matrix["when"] == "final") & (matrix["protocol"] == "success")]
    extra = mean_table(final, list(SETTING), ["seconds_per_edit", "peak_memory_mb"]).drop(columns="seeds")
    frame = frame.merge(extra, on=list(SETTING), how="left")
    edits = counted(int(matrix["edits"].max()), "edit")
    caption = f"Baselines on the same {edits} ({stands_on(*count(frame))}), with 95 % intervals over cases; times are measured."
    columns = [
        METHOD,
        BATCH,
        *SCORE_COLUMNS,
        Column("seconds_per_edit", "ms/edit", "level", 0, 1000.0),
        Column("peak_memory_mb", "MB", "count"),
    ]
    return Sheet(frame, columns, caption, "results/baseline_comparison.csv")
