"""One cell of an experiment: a stream of edits in batches, scored right after each batch, along the way, and at the end.

``immediate`` scores a fact right after its batch; ``final`` scores every fact after the whole stream; the *curve* looks
back at snapshots: how many of the earlier edits still hold (retention), what happened to neighbours, to held-out
perplexity, and to the norms of the weights, whose growth is the early sign of collapse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editlab.edit.editor import EditSession, batches
from editlab.edit.record import Edit
from editlab.evaluation.generation import generate, ngram_entropy
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.scoring import score_requests
from editlab.evaluation.summary import summarize
from editlab.randomness import python_rng
from editlab.requests import EditRequest

if TYPE_CHECKING:
    import pandas as pd

CURVE_PROBES = ("rewrite", "neighborhood")


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """How a stream is cut and what is measured on the way.

    Attributes:
        batch: facts a batch.
        snapshot_every: edits between snapshots; the end of the stream is always one.
        retention_cases: earlier edits scored at a snapshot, at most (a seeded sample when there are more).
        texts: held-out sentences for perplexity (none: not measured).
        generation_cases: cases whose continuations give GE (0: not measured).
        generation_tokens: tokens of a continuation.
        resamples: bootstrap resamples of the intervals.
        immediate: score each batch right after it was edited.
        seed: of samples and generation.
    """

    batch: int
    snapshot_every: int = 32
    retention_cases: int = 200
    texts: Sequence[str] = ()
    generation_cases: int = 0
    generation_tokens: int = 30
    resamples: int = 1000
    immediate: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class StreamResult:
    """What a stream left behind.

    Attributes:
        metrics: one row a (when, metric, protocol): value, n, ci_low, ci_high.
        cases: one row a (when, case, probe): success, accuracy, magnitude (means over the prompts).
        curve: one row a (edits_seen, metric): value, n.
        events: one dictionary a batch.
        edit: the whole change.
    """

    metrics: pd.DataFrame
    cases: pd.DataFrame
    curve: pd.DataFrame
    events: list[dict[str, Any]]
    edit: Edit


def run_stream(
    session: EditSession, requests: Sequence[EditRequest], plan: StreamPlan, progress: Any = None
) -> StreamResult:
    """Edit all requests in an entered session and measure.

    Args:
        session: a session inside its ``with`` block; it stays edited.
        progress: object with ``update(n)``, such as a tqdm bar.
    """
    import pandas as pd

    watch = session.stopwatch
    immediate: list[pd.DataFrame] = []
    curve: list[dict[str, Any]] = []
    seen: list[EditRequest] = []
    for batch in batches(requests, plan.batch):
        session.step(batch)
        before = len(seen)
        seen += batch
        if plan.immediate:
            with watch.stage("evaluate"):
                immediate.append(score_requests(session.model, batch))
        if len(seen) // plan.snapshot_every > before // plan.snapshot_every or len(seen) == len(requests):
            with watch.stage("evaluate"):
                curve += _snapshot(session, seen, plan)
        if progress is not None:
            progress.update(len(batch))
    session.finish()
    with watch.stage("evaluate"):
        frames = {"final": score_requests(session.model, requests)}
        if immediate:
            frames["immediate"] = pd.concat(immediate, ignore_index=True)
        metrics = [summarize(f, resamples=plan.resamples, seed=plan.seed).assign(when=w) for w, f in frames.items()]
    with watch.stage("generate"):
        metrics += _generation(session, requests, plan)
    table = pd.concat(metrics, ignore_index=True)
    return StreamResult(
        metrics=table[["when", *[c for c in table.columns if c != "when"]]],
        cases=pd.concat([_cases(f).assign(when=w) for w, f in frames.items()], ignore_index=True),
        curve=pd.DataFrame(curve),
        events=session.events,
        edit=session.edit(),
    )


def _cases(frame: pd.DataFrame) -> pd.DataFrame:
    means = frame.groupby(["case_id", "probe"], sort=True)[["success", "accuracy", "magnitude"]].mean()
    return means.reset_index()


def _snapshot(session: EditSession, seen: Sequence[EditRequest], plan: StreamPlan) -> list[dict[str, Any]]:
    """Retention and neighbours over a sample of all earlier edits, by age in quarters of the stream so far."""
    chosen = sorted(range(len(seen)))
    if len(chosen) > plan.retention_cases:
        chosen = sorted(python_rng("snapshot", plan.seed, len(seen)).sample(chosen, plan.retention_cases))
    frame = score_requests(session.model, [seen[i] for i in chosen], CURVE_PROBES)
    rewrite = frame[frame["probe"] == "rewrite"]
    neighbors = frame[frame["probe"] == "neighborhood"]
    rows = [
        ("retention_success", rewrite["success"].mean(), len(rewrite)),
        ("retention_accuracy", rewrite["accuracy"].mean(), len(rewrite)),
        ("neighborhood_success", neighbors["success"].mean(), neighbors["case_id"].nunique()),
        ("neighborhood_accuracy", neighbors["accuracy"].mean(), neighbors["case_id"].nunique()),
    ]
    age_of = {seen[i].case_id: (len(seen) - 1 - i) * 4 // len(seen) for i in chosen}
    ages = rewrite["case_id"].map(age_of)
    for age in range(4):
        group = rewrite[ages == age]
        if len(group):
            rows.append((f"retention_success_age{age + 1}", group["success"].mean(), len(group)))
    if plan.texts:
        rows.append(("perplexity", perplexity(session.model, plan.texts), len(plan.texts)))
    for layer, weight in session.weights.items():
        change = weight.double() - session.originals[layer].double()
        rows.append((f"delta_norm_layer{layer}", float(change.norm()), 1))
        rows.append((f"weight_norm_layer{layer}", float(weight.double().norm()), 1))
    norms = [e["targets"]["norm_mean"] for e in session.events if "targets" in e]
    if norms:
        rows.append(("target_norm", norms[-1], 1))
    return [{"edits_seen": len(seen), "metric": m, "value": float(v), "n": n} for m, v, n in rows]


def _generation(session: EditSession, requests: Sequence[EditRequest], plan: StreamPlan) -> list[pd.DataFrame]:
    """GE (n-gram entropy of generated text) and perplexity after the stream."""
    import pandas as pd

    rows = []
    chosen = [r for r in requests if r.generation_prompts][: plan.generation_cases]
    if chosen:
        prompts = [p for r in chosen for p in dict.fromkeys(r.generation_prompts)]
        texts = generate(session.model, prompts, max_new_tokens=plan.generation_tokens, seed=plan.seed)
        rows.append({"metric": "GE", "value": ngram_entropy(texts), "n": len(texts)})
    if plan.texts:
        rows.append({"metric": "perplexity", "value": perplexity(session.model, plan.texts), "n": len(plan.texts)})
    if not rows:
        return []
    nan = float("nan")
    return [pd.DataFrame(rows).assign(when="final", protocol="generation", ci_low=nan, ci_high=nan)]


