"""One cell of an experiment from files to files: the stream of one method at one point of the axes, with provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from editlab.config.base import Count, NonNegative, validated
from editlab.config.recipe import Recipe, Trust
from editlab.config.solvers import RandomUpdate
from editlab.data import load_requests
from editlab.data.corpus import perplexity_texts, read_known, reserved_facts, sample_known
from editlab.data.requests import EditRequest, read_json, read_utf8
from editlab.data.world_probes import with_world_probes
from editlab.editing.batch_targets import held_relations
from editlab.editing.events import read_events
from editlab.editing.probes import choose_probes
from editlab.editing.session import EditSession
from editlab.editing.stream import StreamPlan, StreamResult, run_stream
from editlab.editing.tuning import with_guard
from editlab.errors import DataError
from editlab.evaluation.inference import scoring_seconds
from editlab.evaluation.scoring import check_prompts
from editlab.files.artifacts import write_csv, write_jsonl, write_provenance
from editlab.files.provenance import commit_of, origins
from editlab.files.timing import Stopwatch, peak_memory_mb
from editlab.networks.loading import import_model_code, load_model
from editlab.randomness import set_threads

RESULTS = ("metrics", "cases", "curve", "events", "edit")


class CellPlan(StreamPlan):
    """Everything that a cell's result depends on beside its input files: its stream, and what edits it."""

    recipe: Recipe
    replay: NonNegative = Field(0.0, description="replayed facts per new fact")
    rank: Annotated[int, Field(ge=0)] = Field(0, description="of LoRA adapters; 0 for raw recipes")
    num_edits: Count = Field(description="edits in the stream")
    known_only: bool = Field(True, description="draw only facts that the model knows")
    loading: dict[str, Any] = Field(default_factory=dict, description="arguments of networks.loading.load_model")
    code: str = Field("", description="digest of the library modules")


def warm_up(model: str) -> None:
    """Import all that a cell on this model will need."""
    import_model_code(model)


def run_cell(
    plan: Mapping[str, Any],
    *,
    threads: int,
    model: str,
    requests: str,
    known: str | None,
    contexts: str,
    statistics: Sequence[str],
    layers: Sequence[int] | None,
    outputs: Mapping[str, str],
    matched: str | None = None,
    guards: str | None = None,
) -> None:
    """Run a cell and write its files; its record comes last, so a directory with one is whole.

    Args:
        plan: fields of :class:`CellPlan`.
        threads: of torch.
        layers: the traced layers, for recipes with ``layers: auto``.
        outputs: paths by name: metrics, cases, curve, events, edit, provenance.
        matched: events of the cell whose norms the random control replays.
        guards: the weights and thresholds that were chosen on other streams (:mod:`editlab.editing.tuning`).

    Raises:
        ConfigError: the plan is not allowed; one line, before anything is loaded.
        DataError: the file of known facts or that of the matched cell is missing or does not fit, or too few are known.
    """
    from tqdm import tqdm

    cell = _planned(plan, layers)
    if guards is not None and cell.recipe.trust is not None:
        cell = cell.model_copy(update={"recipe": with_guard(cell.recipe, read_json(guards))})
    set_threads(threads)
    watch, folder = Stopwatch(), Path(outputs["metrics"]).parent
    norms = _norms(cell, matched)
    sources = [model, requests, contexts, known, matched, guards, cell.evaluation.perplexity_text, *statistics]
    made_of = origins(path for path in sources if path)
    with watch.stage("load"):
        network = load_model(model, **cell.loading)
        records = load_requests(requests)
        chosen, probes, others = _facts(cell, records, known)
        chosen = with_world_probes(chosen, records, held_out=probes)
        check_prompts(network, [*chosen, *probes])
    texts, anchors = _texts(cell)
    tuning = reserved_facts(records, chosen) if cell.recipe.reads_reserved else []
    session = EditSession(
        network,
        cell.recipe,
        statistics=list(statistics) or None,
        contexts=read_json(contexts),
        replay=cell.replay,
        rank=cell.rank,
        probes=probes,
        seed=cell.seed,
        anchor_texts=anchors,
        tuning=tuning,
        norms=norms,
        relations=held_relations(cell.recipe, records),
        stopwatch=watch,
    )
    checkpoint = _checkpoint(cell, made_of["inputs"], folder)
    with session, tqdm(total=len(chosen), unit="fact", desc=cell.recipe.solver, disable=None) as bar:
        result = run_stream(session, chosen, cell, texts, facts=others, progress=bar, checkpoint=checkpoint)
        edited = _inference(cell, network, chosen)
    unedited = _inference(cell, network, chosen)  # the session has given the model back; one right after the other
    with watch.stage("write"):
        _write(result, outputs)
    facts = {
        **made_of,
        "plan": cell.model_dump(mode="json"),
        "code": cell.code,
        "commit": commit_of(),
        "seconds": watch.seconds(),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "edits": len(chosen),
        "parameters": result.edit.parameters,
        "inference": {"unedited": unedited, "edited": edited},
    }
    write_provenance(folder, facts, [outputs[name] for name in RESULTS])
    for old in folder.glob(".checkpoint-*.safetensors"):
        old.unlink()


def _planned(plan: Mapping[str, Any], layers: Sequence[int] | None) -> CellPlan:
    traced = {"recipe": {**plan["recipe"], "layers": list(layers)}} if layers else {}
    found: CellPlan = validated(CellPlan, {**plan, **traced}, "cell")
    return found


def _norms(cell: CellPlan, matched: str | None) -> list[dict[int, float]] | None:
    """By batch and layer, the norms that the random control replays: 0 where the other method's batch did not stay."""
    if not isinstance(cell.recipe, RandomUpdate) or cell.recipe.matched_to is None:
        return None
    if matched is None:
        raise DataError(f"matched_to: the events of a cell of {cell.recipe.matched_to} are missing")
    events = read_events(read_utf8(matched).splitlines(), matched)
    if len(events) != -(-cell.num_edits // cell.batch):
        raise DataError(f"{matched}: {len(events)} batches; the stream has {-(-cell.num_edits // cell.batch)}")
    return [
        {int(k): (layer.update_norm or 0.0) if event.kept else 0.0 for k, layer in (event.layers or {}).items()}
        for event in events
    ]


def _facts(
    cell: CellPlan, records: Sequence[EditRequest], known: str | None
) -> tuple[list[EditRequest], list[EditRequest], list[EditRequest]]:
    """The facts to edit, held-out records for trust (none where the recipe has no use for them), and the facts that may be
    asked of an edited subject."""
    if cell.known_only and known is None:
        raise DataError("known_only: the table of known facts is missing")
    cases = read_known(known) if cell.known_only and known is not None else None
    chosen = sample_known(records, cases, cell.num_edits, cell.seed)
    trust, greedy = cell.recipe.trust, cell.recipe.greedy
    if trust is None and greedy is not None and not greedy.use_distance_only:
        trust = Trust()
    pool = [r for r in records if cases is None or r.case_id in cases]
    probes = [] if trust is None else choose_probes(pool, chosen, trust.heldout_samples, cell.seed)
    held_out = {probe.key for probe in probes}
    return chosen, probes, [r for r in pool if r.key not in held_out]


def _texts(cell: CellPlan) -> tuple[list[str], list[str]]:
    """Sentences for perplexity, and others for the anchor of a posthoc LoRA or the gate of a memory."""
    count, anchors = cell.evaluation.perplexity_sentences, cell.recipe.neutral_texts
    texts = perplexity_texts(count + anchors, cell.evaluation.perplexity_text)
    return texts[:count], texts[count : count + anchors]


def _inference(cell: CellPlan, network: Any, requests: Sequence[EditRequest]) -> float | None:
    """CPU seconds of scoring some of the prompts with the model as it is now, where that is asked for."""
    asked = requests[: cell.evaluation.inference_prompts]
    return round(scoring_seconds(network, [(r.rewrite_prompt, r.target_true) for r in asked]), 4) if asked else None


def _checkpoint(cell: CellPlan, inputs: Mapping[str, Any], folder: Path) -> Path | None:
    """Where a long stream saves itself: a name that changes with everything the stream depends on."""
    if cell.num_edits <= cell.evaluation.checkpoint_every:
        return None
    text = json.dumps([cell.model_dump(mode="json"), dict(inputs)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return folder / f".checkpoint-{digest}.safetensors"


def _write(result: StreamResult, outputs: Mapping[str, str]) -> None:
    write_csv(outputs["metrics"], result.metrics)
    write_csv(outputs["cases"], result.cases)
    write_csv(outputs["curve"], result.curve)
    write_jsonl(outputs["events"], [event.record() for event in result.events])
    result.edit.save(outputs["edit"])
