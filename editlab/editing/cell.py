"""One cell of an experiment from files to files: the stream of one method at one point of the axes, with provenance."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.config.base import validated
from editlab.config.edit import Evaluation
from editlab.config.recipe import Recipe, Trust
from editlab.data import load_requests
from editlab.data.corpus import held_out_sentences, read_known, sample_known
from editlab.data.requests import EditRequest, read_json
from editlab.editing.probes import choose_probes
from editlab.editing.session import EditSession
from editlab.editing.stream import Checkpoint, StreamPlan, StreamResult, run_stream
from editlab.errors import DataError
from editlab.files.artifacts import write_csv, write_jsonl, write_provenance
from editlab.files.provenance import commit_of, origins
from editlab.files.timing import Stopwatch, peak_memory_mb
from editlab.networks.loading import import_model_code, load_model
from editlab.randomness import set_threads

RESULTS = ("metrics", "cases", "curve", "events", "edit")


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """Everything that a cell's result depends on beside its input files.

    Attributes:
        recipe: fields of :class:`editlab.config.recipe.Recipe`.
        batch, replay, rank, seed: the cell's coordinates.
        num_edits: edits in the stream.
        known_only: draw only facts that the model knows.
        evaluation: fields of :class:`editlab.config.edit.Evaluation`.
        loading: arguments of :func:`editlab.networks.loading.load_model`.
        perplexity_text: text file for perplexity; None: held-out neutral sentences.
        rank: of LoRA adapters; 0 for raw recipes.
        snapshot_every: edits between snapshots; None: that of ``evaluation``.
        stress_fraction, label_cases: see :class:`editlab.editing.stream.StreamPlan`.
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
    rank: int = 0
    snapshot_every: int | None = None
    stress_fraction: float = 0.0
    label_cases: int = 0
    code: str = ""


def warm_up(model: str) -> None:
    """Import all that a cell on this model will need."""
    import_model_code(model)


def run_planned_cell(plan: Mapping[str, Any], *, threads: int, **files: Any) -> None:
    """:func:`run_cell` with JSON arguments alone: the fields of the plan, the number of torch threads, the files."""
    set_threads(threads)
    run_cell(CellPlan(**plan), **files)


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
    """Run a cell and write its files; its record comes last, so a directory with one is whole.

    Args:
        layers: the traced layers, for recipes with ``layers: auto``.
        outputs: paths by name: metrics, cases, curve, events, edit, provenance.
    """
    from tqdm import tqdm

    watch = Stopwatch()
    with watch.stage("load"):
        network = load_model(model, **plan.loading)
        records, cases = load_requests(requests), _known(known, plan)
        chosen = sample_known(records, cases, plan.num_edits, plan.seed)
        recipe = _recipe(plan, layers)
    session = EditSession(
        network,
        recipe,
        statistics=list(statistics) or None,
        contexts=read_json(contexts),
        replay=plan.replay,
        rank=plan.rank,
        probes=_probes(recipe, [r for r in records if cases is None or r.case_id in cases], chosen, plan.seed),
        seed=plan.seed,
        anchor_texts=_texts(plan, recipe.posthoc.anchor_texts)[1],
        stopwatch=watch,
    )
    sources = [model, requests, contexts, known, plan.perplexity_text, *statistics]
    made_of = origins(path for path in sources if path)
    folder = Path(outputs["metrics"]).parent
    checkpoint = _checkpoint(plan, made_of["inputs"], folder)
    with session, tqdm(total=len(chosen), unit="fact", desc=session.recipe.solver, disable=None) as bar:
        result = run_stream(session, chosen, _stream_plan(plan), bar, checkpoint)
    with watch.stage("write"):
        _write(result, outputs)
    facts = {
        **made_of,
        "plan": dataclasses.asdict(plan),
        "code": plan.code,
        "commit": commit_of(),
        "seconds": watch.seconds(),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "edits": len(chosen),
    }
    write_provenance(folder, facts, [outputs[name] for name in RESULTS])
    for old in folder.glob(".checkpoint-*.safetensors"):
        old.unlink()


def _recipe(plan: CellPlan, layers: Sequence[int] | None) -> Recipe:
    found: Recipe = validated(Recipe, dict(plan.recipe) | ({"layers": list(layers)} if layers else {}), "recipe")
    return found


def _known(path: str | None, plan: CellPlan) -> set[str] | None:
    """Cases that may be edited or probed; None: all."""
    if not plan.known_only:
        return None
    if path is None:
        raise DataError("known_only: the table of known facts is missing")
    return read_known(path)


def _probes(recipe: Recipe, pool: Sequence[EditRequest], chosen: Sequence[EditRequest], seed: int) -> list[EditRequest]:
    """Held-out records for the guard: none where the recipe has no use for them."""
    if recipe.trust is not None:
        return choose_probes(pool, chosen, recipe.trust.heldout_samples, seed)
    if recipe.greedy is not None and not recipe.greedy.use_distance_only:
        return choose_probes(pool, chosen, Trust.model_validate({}).heldout_samples, seed)
    return []


def _checkpoint(plan: CellPlan, inputs: Mapping[str, Any], folder: Path) -> Checkpoint | None:
    """Where a long stream saves itself: a name that changes with everything the stream depends on."""
    every = validated(Evaluation, plan.evaluation, "evaluation").checkpoint_every
    if plan.num_edits <= every:
        return None
    text = json.dumps([dataclasses.asdict(plan), dict(inputs)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Checkpoint(folder / f".checkpoint-{digest}.safetensors", max(1, every // plan.batch))


def _texts(plan: CellPlan, anchors: int = 0) -> tuple[list[str], list[str]]:
    """Sentences for perplexity, and others for the anchor of a posthoc LoRA."""
    from editlab.data import read_text

    count = validated(Evaluation, plan.evaluation, "evaluation").perplexity_sentences
    texts = read_text(plan.perplexity_text) if plan.perplexity_text else held_out_sentences(count + anchors)
    return texts[:count], texts[count : count + anchors]


def _stream_plan(plan: CellPlan) -> StreamPlan:
    evaluation = validated(Evaluation, plan.evaluation, "evaluation")
    return StreamPlan(
        batch=plan.batch,
        snapshot_every=plan.snapshot_every or evaluation.snapshot_every,
        retention_cases=evaluation.retention_cases,
        texts=_texts(plan)[0],
        generation_cases=evaluation.generation_cases,
        generation_tokens=evaluation.generation_tokens,
        resamples=evaluation.resamples,
        stress_fraction=plan.stress_fraction,
        label_cases=plan.label_cases,
        seed=plan.seed,
    )


def _write(result: StreamResult, outputs: Mapping[str, str]) -> None:
    write_csv(outputs["metrics"], result.metrics)
    write_csv(outputs["cases"], result.cases)
    write_csv(outputs["curve"], result.curve)
    write_jsonl(outputs["events"], result.events)
    result.edit.save(outputs["edit"])
