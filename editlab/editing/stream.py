"""One cell of an experiment: a stream of edits in batches, scored right after each, along the way, and at the end.

``immediate`` scores a fact right after its batch; ``final`` scores every fact after the whole stream; the *curve* looks
back at snapshots: how many of the earlier edits still hold (retention), what happened to neighbours, to held-out
perplexity, and to the norms of the weights, whose growth is the early sign of collapse. A neighbour counts as long as
the stream has not come to its own fact: from then on its old answer is wrong. Facts of harmful, rolled-back and rejected
batches count as come to, so that all methods are scored on the same prompts of a stream. In a stream with harmful
batches (``stress_fraction``) all scores are over the facts of the harmless ones: what a user would want to keep. With a
checkpoint, a run that was killed goes on from its last one and ends as an undisturbed run does, bit for bit on one kind of
processor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from editlab.config.base import Count, Section, Share
from editlab.config.evaluation import Evaluation
from editlab.data import batches
from editlab.data.edited import EditedFacts, SubjectFacts, edited_again
from editlab.data.requests import EditRequest
from editlab.editing.checkpoint import Checkpoint
from editlab.editing.events import Event
from editlab.editing.followup import FollowUp, unconverged_share, warn_unconverged
from editlab.editing.gated_memory import memory_report
from editlab.editing.labels import CompositeObserver
from editlab.editing.session import EditSession
from editlab.editing.stress import stressed_batches
from editlab.edits.edit import Edit
from editlab.errors import ArtifactError
from editlab.evaluation.generation import generate, ngram_entropy
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.prompts import Surroundings, scored_sample
from editlab.evaluation.retention import by_return, by_subject, composite, left_out, neighbors, retention
from editlab.evaluation.scoring import score_requests
from editlab.evaluation.summary import case_means, summarize
from editlab.randomness import python_rng

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class StreamPlan(Section):
    """How a stream is cut and what is measured on the way."""

    batch: Count = Field(description="facts a batch")
    seed: int = Field(0, description="of draws, samples and generation")
    snapshot_every: Count | None = Field(None, description="edits between snapshots; default: that of evaluation")
    stress_fraction: Share = Field(0.0, description="share of batches made harmful (editlab/editing/stress.py)")
    label_cases: Annotated[int, Field(ge=0)] = Field(
        0, description="facts a probe set when each decision is labelled on evaluation probes (0: no labels)"
    )
    evaluation: Evaluation = Evaluation()

    @property
    def edits_a_snapshot(self) -> int:
        """Edits between snapshots; the end of the stream is always one."""
        return self.snapshot_every or self.evaluation.snapshot_every


@dataclasses.dataclass(frozen=True)
class StreamResult:
    """What a stream left behind.

    Attributes:
        metrics: one row a (when, metric, protocol): value, n, ci_low, ci_high.
        cases: one row a (when, case, probe): success, accuracy, magnitude (means over the prompts), and edited_again:
            whether the stream has come back to the subject by then.
        curve: one row a (edits_seen, metric): value, n.
        events: one a batch.
        edit: the whole change.
    """

    metrics: pd.DataFrame
    cases: pd.DataFrame
    curve: pd.DataFrame
    events: list[Event]
    edit: Edit


def run_stream(
    session: EditSession,
    requests: Sequence[EditRequest],
    plan: StreamPlan,
    texts: Sequence[str] = (),
    *,
    facts: Sequence[EditRequest] = (),
    progress: Any = None,
    checkpoint: Path | None = None,
) -> StreamResult:
    """Edit all requests in an entered session and measure.

    Args:
        session: a session inside its ``with`` block; it stays edited.
        texts: held-out sentences for perplexity (none: not measured).
        facts: what else is true of the subjects (same-subject specificity; none: not measured).
        progress: object with ``update(n)``, such as a tqdm bar.
        checkpoint: file in which the stream saves itself now and then, and from which it starts when it is there.

    Raises:
        ConfigError: a trust probe is also evaluated.
        ArtifactError: the checkpoint belongs to another run or is damaged.
    """
    session.guard.check(requests)
    run = _Run(session, list(requests), plan, texts, checkpoint, facts)
    if plan.label_cases:
        session.observer = CompositeObserver(session.model, plan.label_cases, plan.seed, run.around)
    run.follow_up = FollowUp(session, run.harmless(), plan.evaluation, plan.seed)  # the model is still unedited
    run.resume()
    for batch in run.left():
        run.step(batch)
        if progress is not None:
            progress.update(len(batch))
    session.finish()
    return run.result()


class _Run:
    """A stream under way: its batches, which are harmful, and what was measured so far."""

    def __init__(
        self,
        session: EditSession,
        requests: list[EditRequest],
        plan: StreamPlan,
        texts: Sequence[str],
        checkpoint: Path | None,
        facts: Sequence[EditRequest],
    ) -> None:
        self.session, self.plan, self.texts, self.checkpoint = session, plan, list(texts), checkpoint
        self.requests = requests
        self.batches = list(batches(requests, plan.batch))
        streamed = {r.key for r in requests}
        others = [r for r in facts if r.key not in streamed] if plan.stress_fraction else []
        self.stress = stressed_batches(len(self.batches), plan.stress_fraction, plan.seed, others)
        self.sample = {r.case_id for r in scored_sample(self.harmless(), plan.evaluation.scored_cases, plan.seed)}
        self.edited = EditedFacts()
        apart = session.proposer.relations_apart
        most = plan.evaluation.same_subject_facts
        self.around = Surroundings(self.edited, SubjectFacts(facts, plan.seed), most, apart)
        self.follow_up: FollowUp | None = None
        self.immediate: list[pd.DataFrame] = []
        self.followed: list[pd.DataFrame] = []
        self.curve: list[dict[str, Any]] = []
        self.looked: tuple[Any, pd.DataFrame] | None = None

    @property
    def done(self) -> int:
        """Batches edited."""
        return len(self.session.events)

    def harmless(self, stop: int | None = None) -> list[EditRequest]:
        """The facts of the harmless batches up to ``stop``."""
        return [r for i, b in enumerate(self.batches[:stop]) if i not in self.stress for r in b]

    def scored(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """Those of the sample that is scored right after their batch and at the end."""
        return [r for r in requests if r.case_id in self.sample]

    def left(self) -> list[list[EditRequest]]:
        """The batches still to edit."""
        return self.batches[self.done :]

    def step(self, batch: list[EditRequest]) -> None:
        """Edit a batch, score it, take a snapshot when one is due, save the state when that is."""
        plan, watch, number = self.plan, self.session.stopwatch, self.done
        self.edited.add(batch)
        self.session.step(batch, self.stress.get(number))
        before = number * plan.batch
        now = before + len(batch)
        if number not in self.stress:
            if scored := self.scored(batch):
                with watch.stage("evaluate"):
                    self.immediate.append(case_means(score_requests(self.session.model, scored, around=self.around)))
            follows = self.follow_up.immediate(batch) if self.follow_up is not None else None
            self.followed += [] if follows is None else [follows]
        if now // plan.edits_a_snapshot > before // plan.edits_a_snapshot or now == len(self.requests):
            with watch.stage("evaluate"):
                self.curve += self._snapshot(self.harmless(number + 1), now)
            logger.info("%s: %d of %d edits", self.session.recipe.solver, now, len(self.requests))
        if self.checkpoint is not None and self.done % max(1, plan.evaluation.checkpoint_every // plan.batch) == 0:
            with watch.stage("write"):
                self.save(self.checkpoint)

    def save(self, path: Path) -> None:
        """Everything that the rest of the stream depends on."""
        measured = {name: [f.to_dict("list") for f in getattr(self, name)] for name in ("immediate", "followed")}
        extra = {"plan": self._identity(), "curve": self.curve, **measured}
        Checkpoint.capture(self.session, extra).save(path)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        import pandas as pd

        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        extra = Checkpoint.load(self.checkpoint).restore(self.session)
        if extra["plan"] != self._identity():
            raise ArtifactError(f"{self.checkpoint}: made by another run (differs in the plan); delete it")
        self.edited.add(r for done in self.batches[: self.done] for r in done)
        self.curve = list(extra["curve"])
        self.immediate = [pd.DataFrame(columns) for columns in extra["immediate"]]
        self.followed = [pd.DataFrame(columns) for columns in extra["followed"]]

    def _identity(self) -> str:
        ids = [r.case_id for r in self.requests]
        identity = [ids, self.plan.model_dump(mode="json"), self.texts]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def result(self) -> StreamResult:
        """Score everything at the end of the stream and put the tables together."""
        import pandas as pd

        session, plan, kept = self.session, self.plan, self.harmless()
        with session.stopwatch.stage("evaluate"):
            scored = self._score(self.scored(kept))
            means, again = case_means(scored), self._again(len(self.requests))
            frames = {"final": means.assign(edited_again=means["case_id"].map(again).astype(int))}
            if self.immediate:
                frames["immediate"] = pd.concat(self.immediate, ignore_index=True).assign(edited_again=0)
            metrics = [
                summarize(by_subject(f), resamples=plan.evaluation.resamples, seed=plan.seed).assign(when=w)
                for w, f in frames.items()
            ]
            metrics.append(left_out(scored))
        with session.stopwatch.stage("generate"):
            metrics += self._generation(kept)
        metrics += self.follow_up.metrics(self.followed) if self.follow_up is not None else []
        table = pd.concat(metrics, ignore_index=True)
        return StreamResult(
            metrics=table[["when", *[c for c in table.columns if c != "when"]]],
            cases=pd.concat([f.assign(when=w) for w, f in frames.items()], ignore_index=True),
            curve=pd.DataFrame(self.curve, columns=["edits_seen", "metric", "value", "n"]),
            events=session.events,
            edit=session.edit(),
        )

    def _snapshot(self, seen: Sequence[EditRequest], edits_seen: int) -> list[dict[str, Any]]:
        """Scores over a sample of all earlier edits, perplexity, and the norms of the weights."""
        most, chosen = self.plan.evaluation.retention_cases, list(range(len(seen)))
        if len(chosen) > most:
            chosen = sorted(python_rng("snapshot", self.plan.seed, len(seen)).sample(chosen, most))
        frame = self._score([seen[i] for i in chosen])
        rows = retention(frame, {seen[i].case_id: (len(seen) - 1 - i) * 4 // len(seen) for i in chosen})
        again = self._again(edits_seen)
        rows += by_return(frame[frame["probe"] == "rewrite"], again) + composite(frame) + neighbors(frame)
        if self.texts:
            rows.append(("perplexity", perplexity(self.session.model, self.texts), len(self.texts)))
        for layer, weight in self.session.weights.items():
            rows.append((f"delta_norm_layer{layer}", self._change(layer), 1))
            rows.append((f"weight_norm_layer{layer}", float(weight.double().norm()), 1))
        norms = [event.targets.norm_mean for event in self.session.events if event.targets is not None]
        if norms:
            rows.append(("target_norm", norms[-1], 1))
        return [{"edits_seen": edits_seen, "metric": m, "value": float(v), "n": n} for m, v, n in rows]

    def _score(self, requests: Sequence[EditRequest]) -> pd.DataFrame:
        """The scores of facts now. The end of a short stream looks at what its last snapshot did: nothing happened since then,
        unless the session did something after the last batch."""
        asked = (self.done, bool(self.session.events[-1].finish), [r.case_id for r in requests])
        if self.looked is None or self.looked[0] != asked:
            self.looked = asked, score_requests(self.session.model, requests, around=self.around)
        return self.looked[1]

    def _change(self, layer: int) -> float:
        """Norm of what a map has gained, a change of its weight or the residuals of its memory."""
        if memory := self.session.proposer.memory:
            return memory.memories[layer].norm()
        return float((self.session.weights[layer].double() - self.session.originals[layer].double()).norm())

    def _again(self, stop: int) -> dict[str, bool]:
        """By case of the first ``stop`` facts, whether their subject comes again among them."""
        seen = self.requests[:stop]
        return dict(zip((r.case_id for r in seen), edited_again(seen), strict=True))

    def _generation(self, requests: Sequence[EditRequest]) -> list[pd.DataFrame]:
        """GE (n-gram entropy of generated text) and perplexity after the stream; which targets did not converge."""
        import pandas as pd

        rows, model, options = [], self.session.model, self.plan.evaluation
        chosen = [r for r in requests if r.generation_prompts][: options.generation_cases]
        if chosen:
            prompts = [p for r in chosen for p in dict.fromkeys(r.generation_prompts)]
            texts = generate(model, prompts, max_new_tokens=options.generation_tokens, seed=self.plan.seed)
            rows.append({"metric": "GE", "value": ngram_entropy(texts), "n": len(texts)})
        if self.texts:
            rows.append({"metric": "perplexity", "value": perplexity(model, self.texts), "n": len(self.texts)})
        if memory := self.session.proposer.memory:
            rows += memory_report(memory, model, self.texts)
        if reader := self.session.reader:
            rows.append({"metric": "memory_gate", "value": reader.gate.value, "n": 1})
        if self.session.half:
            lost = self.session.energy_lost
            rows.append({"metric": "energy_lost", "value": max(lost.values()), "n": len(lost)})
        unconverged = unconverged_share(self.session.events)
        if unconverged is not None:
            warn_unconverged(unconverged)
            rows.append({"metric": "targets_unconverged", "value": unconverged, "n": len(self.requests)})
        if not rows:
            return []
        nan = float("nan")
        return [pd.DataFrame(rows).assign(when="final", protocol="generation", ci_low=nan, ci_high=nan)]
