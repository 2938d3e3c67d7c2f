"""One cell of an experiment: a stream of edits in batches, scored right after each, along the way, and at the end.

``immediate`` scores a fact right after its batch; ``final`` scores every fact after the whole stream; the *curve* looks
back at snapshots: how many of the earlier edits still hold (retention), what happened to neighbours, to held-out
perplexity, and to the norms of the weights, whose growth is the early sign of collapse. In a stream with harmful
batches (``stress_fraction``) all scores are over the facts of the harmless ones: what a user would want to keep. With a
checkpoint, a run that was killed goes on from its last one and ends as an undisturbed run does, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editlab.data.requests import EditRequest
from editlab.editing.checkpoint import SessionState
from editlab.editing.labels import CompositeObserver
from editlab.editing.session import EditSession, batches
from editlab.editing.stress import stressed_batches
from editlab.edits.edit import Edit
from editlab.errors import ArtifactError
from editlab.evaluation.generation import generate, ngram_entropy
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.scoring import score_requests
from editlab.evaluation.summary import summarize
from editlab.randomness import python_rng

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
        stress_fraction: share of batches made harmful (:mod:`editlab.editing.stress`).
        label_cases: facts a probe set when each decision is labelled on evaluation probes (0: no labels).
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
    stress_fraction: float = 0.0
    label_cases: int = 0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a long stream saves itself, and after how many batches each time."""

    path: Path
    every: int = 10


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
    session: EditSession,
    requests: Sequence[EditRequest],
    plan: StreamPlan,
    progress: Any = None,
    checkpoint: Checkpoint | None = None,
) -> StreamResult:
    """Edit all requests in an entered session and measure.

    Args:
        session: a session inside its ``with`` block; it stays edited.
        progress: object with ``update(n)``, such as a tqdm bar.
        checkpoint: save the state there now and then, and start from it when it is there.

    Raises:
        ConfigError: a trust probe is also evaluated.
        ArtifactError: the checkpoint belongs to another run or is damaged.
    """
    session.guard.check(requests)
    if plan.label_cases:
        session.observer = CompositeObserver(session.model, plan.label_cases, plan.seed)
    run = _Run(session, list(requests), plan, checkpoint)
    run.resume()
    for batch in run.left():
        run.step(batch)
        if progress is not None:
            progress.update(len(batch))
    session.finish()
    return _result(session, run)


class _Run:
    """A stream under way: its batches, which are harmful, and what was measured so far."""

    def __init__(
        self, session: EditSession, requests: list[EditRequest], plan: StreamPlan, checkpoint: Checkpoint | None
    ) -> None:
        self.session, self.plan, self.checkpoint = session, plan, checkpoint
        self.requests = requests
        self.batches = list(batches(requests, plan.batch))
        self.stress = stressed_batches(len(self.batches), plan.stress_fraction, plan.seed)
        self.immediate: list[pd.DataFrame] = []
        self.curve: list[dict[str, Any]] = []

    @property
    def done(self) -> int:
        """Batches edited."""
        return len(self.session.events)

    def harmless(self, stop: int | None = None) -> list[EditRequest]:
        """The facts of the harmless batches up to ``stop``."""
        return [r for i, b in enumerate(self.batches[:stop]) if i not in self.stress for r in b]

    def left(self) -> list[list[EditRequest]]:
        """The batches still to edit."""
        return self.batches[self.done :]

    def step(self, batch: list[EditRequest]) -> None:
        """Edit a batch, score it, take a snapshot when one is due, save the state when that is."""
        plan, watch, number = self.plan, self.session.stopwatch, self.done
        self.session.step(batch, self.stress.get(number))
        before = number * plan.batch
        now = before + len(batch)
        if plan.immediate and number not in self.stress:
            with watch.stage("evaluate"):
                self.immediate.append(_cases(score_requests(self.session.model, batch)))
        if now // plan.snapshot_every > before // plan.snapshot_every or now == len(self.requests):
            with watch.stage("evaluate"):
                self.curve += _snapshot(self.session, self.harmless(number + 1), now, plan)
        if self.checkpoint is not None and self.done % self.checkpoint.every == 0:
            with watch.stage("write"):
                self.save(self.checkpoint.path)

    def save(self, path: Path) -> None:
        """Everything that the rest of the stream depends on."""
        measured = [frame.to_dict("list") for frame in self.immediate]
        extra = {"plan": self._identity(), "curve": self.curve, "immediate": measured}
        SessionState.capture(self.session, extra).save(path)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        import pandas as pd

        if self.checkpoint is None or not self.checkpoint.path.is_file():
            return
        extra = SessionState.load(self.checkpoint.path).restore(self.session)
        if extra["plan"] != self._identity():
            raise ArtifactError(f"{self.checkpoint.path}: made by another run (differs in the plan); delete it")
        self.curve = list(extra["curve"])
        self.immediate = [pd.DataFrame(columns) for columns in extra["immediate"]]

    def _identity(self) -> str:
        ids = [r.case_id for r in self.requests]
        plan = dataclasses.asdict(self.plan) | {"texts": list(self.plan.texts)}
        return hashlib.sha256(json.dumps([ids, plan], sort_keys=True).encode()).hexdigest()[:16]


def _result(session: EditSession, run: _Run) -> StreamResult:
    """Score everything at the end of the stream and put the tables together."""
    import pandas as pd

    plan, kept = run.plan, run.harmless()
    with session.stopwatch.stage("evaluate"):
        frames = {"final": _cases(score_requests(session.model, kept))}
        if run.immediate:
            frames["immediate"] = pd.concat(run.immediate, ignore_index=True)
        metrics = [
            summarize(f.assign(index=0), resamples=plan.resamples, seed=plan.seed).assign(when=w)
            for w, f in frames.items()
        ]
    with session.stopwatch.stage("generate"):
        metrics += _generation(session, kept, plan)
    table = pd.concat(metrics, ignore_index=True)
    return StreamResult(
        metrics=table[["when", *[c for c in table.columns if c != "when"]]],
        cases=pd.concat([f.assign(when=w) for w, f in frames.items()], ignore_index=True),
        curve=pd.DataFrame(run.curve, columns=["edits_seen", "metric", "value", "n"]),
        events=session.events,
        edit=session.edit(),
    )


def _cases(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the prompts of each (case, probe): all that later summaries need."""
    means = frame.groupby(["case_id", "probe"], sort=True)[["success", "accuracy", "magnitude"]].mean()
    return means.reset_index()


def _snapshot(
    session: EditSession, seen: Sequence[EditRequest], edits_seen: int, plan: StreamPlan
) -> list[dict[str, Any]]:
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
    return [{"edits_seen": edits_seen, "metric": m, "value": float(v), "n": n} for m, v, n in rows]


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
