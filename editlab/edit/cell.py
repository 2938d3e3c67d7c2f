"""One cell of an experiment from files to files: the stream of one method at one point of the axes, with provenance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.artifacts import (
    directory_digest,
    sha256,
    write_csv,
    write_jsonl,
    write_provenance,
)
from editlab.config import Evaluation, Recipe, validated
from editlab.data import load_requests
from editlab.data.corpus import held_out_sentences, read_known, sample_known
from editlab.edit.editor import EditSession
from editlab.edit.stream import StreamPlan, StreamResult, run_stream
from editlab.errors import DataError
from editlab.models import load_model
from editlab.requests import EditRequest
from editlab.timing import Stopwatch, peak_memory_mb

RESULTS = ("metrics", "cases", "curve", "events", "edit")


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """Everything that a cell's result depends on beside its input files.

    Attributes:
        recipe: fields of :class:`editlab.config.Recipe`.
        batch, replay, seed: the cell's coordinates.
        num_edits: edits in the stream.
        known_only: draw only facts that the model knows.
        evaluation: fields of :class:`editlab.config.Evaluation`.
        loading: arguments of :func:`editlab.models.load_model`.
        perplexity_text: text file for perplexity; None: held-out neutral sentences.
        code: digest of the library modules.
    """

    recipe: Mapping[str, Any]
    batch: int
    replay: float
    seed: int
    num_edits: int
    known_only: bool
    evaluation: Mapping[str, Any]
    loading: Mapping[str, Any]
    perplexity_text: str | None = None
    code: str = ""


def run_cell(
    plan: CellPlan,
    *,
    model: str,
    requests: str,
    known: str | None,
    contexts: str,
    statistics: Sequence[str],
    layers: Sequence[int] | None,
    outputs: Mapping[str, str],
) -> None:
    """Run a cell and write its files; ``provenance.json`` comes last, so a directory with one is whole.

    Args:
        layers: the traced layers, for recipes with ``layers: auto``.
        outputs: paths by name: metrics, cases, curve, events, edit, provenance.
    """
    from tqdm import tqdm

    watch = Stopwatch()
    with watch.stage("load"):
        network = load_model(model, **plan.loading)
        chosen = _chosen(requests, known, plan)
        recipe = dict(plan.recipe) | ({"layers": list(layers)} if layers is not None else {})
    session = EditSession(
        network,
        validated(Recipe, recipe, "recipe"),
        statistics=list(statistics) or None,
        contexts=json.loads(Path(contexts).read_text(encoding="utf-8")),
        replay=plan.replay,
        seed=plan.seed,
        stopwatch=watch,
    )
    with session, tqdm(total=len(chosen), unit="fact", desc=session.recipe.solver, disable=None) as bar:
        result = run_stream(session, chosen, _stream_plan(plan), bar)
    with watch.stage("write"):
        _write(result, outputs)
    inputs = {
        "model": directory_digest(model),
        "requests": sha256(requests),
        "contexts": sha256(contexts),
        "statistics": {Path(s).name: sha256(s) for s in statistics},
    }
    facts = {
        "plan": dataclasses.asdict(plan),
        "inputs": inputs,
        "seconds": watch.seconds(),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "edits": len(chosen),
    }
    write_provenance(Path(outputs["provenance"]).parent, facts, [outputs[name] for name in RESULTS])


def _chosen(path: str, known: str | None, plan: CellPlan) -> list[EditRequest]:
    if plan.known_only and known is None:
        raise DataError("known_only: the table of known facts is missing")
    cases = read_known(known) if plan.known_only and known is not None else None
    return sample_known(load_requests(path), cases, plan.num_edits, plan.seed)


def _stream_plan(plan: CellPlan) -> StreamPlan:
    from editlab.data import read_text

    evaluation = validated(Evaluation, plan.evaluation, "evaluation")
    count = evaluation.perplexity_sentences
    texts = read_text(plan.perplexity_text)[:count] if plan.perplexity_text else held_out_sentences(count)
    return StreamPlan(
        batch=plan.batch,
        snapshot_every=evaluation.snapshot_every,
        retention_cases=evaluation.retention_cases,
        texts=texts,
        generation_cases=evaluation.generation_cases,
        generation_tokens=evaluation.generation_tokens,
        resamples=evaluation.resamples,
        seed=plan.seed,
    )


def _write(result: StreamResult, outputs: Mapping[str, str]) -> None:
    write_csv(outputs["metrics"], result.metrics)
    write_csv(outputs["cases"], result.cases)
    write_csv(outputs["curve"], result.curve)
    write_jsonl(outputs["events"], result.events)
    result.edit.save(outputs["edit"])
