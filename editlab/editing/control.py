"""What to expect of an edit at best: a model of the same kind, *trained* on the new facts.

It is scored as the cells of a stream are. And an edit can fail a probe because it is a poor edit, or because no model of this
size would answer: one that composes no two facts answers no multi-hop question, whoever
taught it the facts. So the control is trained from scratch as the substrate was, on a world in which the edited facts hold
their new objects from the start, in every wording. What follows from them (facts over two hops, inverse relations, the
question form) is left out for these subjects and stated for all others. One control serves the streams of all seeds.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editlab.config.evaluation import Evaluation
from editlab.config.models import Substrate
from editlab.data.corpus import sample_known, substrate_corpus
from editlab.data.edited import EditedFacts, SubjectFacts
from editlab.data.probes import MULTI_HOP, PORTABILITY, Question
from editlab.data.requests import EditRequest
from editlab.data.world_probes import with_world_probes
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.probing import (
    answer_questions,
    conditions_of,
    questions_of,
    sample_probes,
    score_probes,
    summarize_probes,
)
from editlab.evaluation.prompts import Surroundings, scored_sample
from editlab.evaluation.scoring import score_requests
from editlab.evaluation.summary import case_means, summarize
from editlab.randomness import python_rng
from editlab.training.substrate import train_substrate

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Statement = tuple[str, str]
FOLLOWING = (*PORTABILITY, MULTI_HOP)


def train_control(
    model: Any,
    records: Sequence[EditRequest],
    known: set[str] | None,
    options: Substrate,
    evaluation: Evaluation,
    *,
    num_edits: int,
    seeds: Sequence[int],
    repeats: int = 1,
    texts: Sequence[str] = (),
    partial: str | Path | None = None,
    code: str = "",
) -> pd.DataFrame:
    """Train the control and score it on the facts and the probes of every stream.

    Args:
        model: the substrate, unedited: it answers the conditions of the probes.
        records: all facts of the world.
        known: cases that the streams are drawn from; None: all.
        options: how the substrate was trained; ``recall_gate`` is that of the control too.
        num_edits: facts a stream.
        seeds: of the streams; a stream draws the facts that a cell of this seed draws.
        repeats: how often a pass over the statements states a changed fact.
        texts: held-out sentences for perplexity (none: not measured).
        partial, code: where the training saves itself, and the digest of its code; see :func:`train_substrate`.

    Returns:
        the columns of :func:`summarize_probes` and ``seed``; beside the probes, the metrics of :func:`summarize` and perplexity.
        ``KIND_guess`` is what guessing gets of a kind. Neighbours, and other facts of a subject, are those that no stream edits.

    Raises:
        DataError: too few facts are known.
        ModelError: the control did not learn its facts.
    """
    import pandas as pd

    streams = {seed: sample_known(records, known, num_edits, seed) for seed in seeds}
    taught = {request.key: request for stream in streams.values() for request in stream}
    edited = list(taught.values())
    corpus = substrate_corpus(records, options.neutral_sentences, options.seed)
    statements = changed_statements(corpus.statements, edited, records)
    truth = dict(statements)
    changed = set(statements) - set(corpus.statements)
    again = [statement for statement in statements if statement in changed] * (repeats - 1)
    control, _ = train_substrate(
        statements + again,
        corpus.neutral,
        options,
        rewrites=[(prompt, truth[prompt]) for prompt, _ in corpus.rewrites],
        subjects=corpus.subjects,
        partial=partial,
        code=code,
    )
    limits: dict[str, Any] = {"max_new_tokens": evaluation.answer_tokens, "template": evaluation.question_template}
    pool = [r for r in records if known is None or r.case_id in known]
    read = [{"metric": "perplexity", "value": perplexity(control, texts), "n": len(texts)}] if texts else []
    tables = []
    for seed, drawn in streams.items():
        # Of records that change one fact to different objects, the control holds one.
        stream = [request for request in drawn if taught[request.key].target_new == request.target_new]
        if len(stream) < len(drawn):
            logger.warning(
                "seed %d: %d facts have another object in another stream: not scored", seed, len(drawn) - len(stream)
            )
        around = Surroundings(EditedFacts(edited), SubjectFacts(pool, seed), evaluation.same_subject_facts)
        scored = case_means(
            score_requests(control, scored_sample(stream, evaluation.scored_cases, seed), around=around)
        )
        tables += [
            summarize(scored.assign(index=0), resamples=evaluation.resamples, seed=seed).assign(seed=seed),
            pd.DataFrame(read).assign(protocol="generation", seed=seed),
        ]
        own = {request.key for request in stream}
        beside = [request for request in edited if request.key not in own]
        asked = sample_probes(with_world_probes(stream, records, edited=beside), evaluation.probe_cases, seed)
        asked = [with_guesses(request, asked, seed) for request in asked]
        before = answer_questions(model, conditions_of(asked), **limits)
        frame = score_probes(asked, before, answer_questions(control, questions_of(asked), **limits))
        tables.append(summarize_probes(frame, resamples=evaluation.resamples, seed=seed).assign(seed=seed))
    return pd.concat(tables, ignore_index=True)


def with_guesses(request: EditRequest, asked: Sequence[EditRequest], seed: int) -> EditRequest:
    """The request with a second probe beside each that follows from it: the same question with another case's answer.

    How often that is "right" is what guessing gets, by a model that knows the relation and its answers but not the fact.
    """
    rng = python_rng("guesses", seed, request.case_id)
    probes = list(request.probes)
    for probe in request.probes:
        right = probe.questions[0].answers
        others = {
            other.questions[0].answers
            for fellow in asked
            if fellow.relation_id == request.relation_id
            for other in fellow.probes
            if other.kind == probe.kind and other.questions[0].answers != right
        }
        if probe.kind in FOLLOWING and others:
            wrong = Question(probe.questions[0].prompt, rng.choice(sorted(others)))
            probes.append(dataclasses.replace(probe, kind=f"{probe.kind}_guess", questions=(wrong,)))
    return dataclasses.replace(request, probes=tuple(probes))


def changed_statements(
    statements: Sequence[Statement], edited: Sequence[EditRequest], records: Sequence[EditRequest]
) -> list[Statement]:
    """The statements of a world in which the edited facts hold their new objects, in the order of the old ones; a fact whose
    old object nobody knows comes last.

    An edited fact is changed in the wordings of all ``records`` that hold it. Statements that followed from an old fact are
    left out: conditions of its probes that name its subject, whatever leads back to an edited subject, and neighbours and
    attributes that ask for an edited fact in other words. Those that an edit must leave alone stay, and so do other records:
    their objects can be edited subjects, and probes can have them as conditions.
    """
    new, touched = {r.key: r.target_new for r in edited}, EditedFacts(edited)
    own = {p: r.key for r in (*records, *edited) for p in (r.rewrite_prompt, *r.paraphrase_prompts)}
    changed = {p: new[key] for p, key in own.items() if key in new}
    around = {(p, r.relation_id, r.subject) for r in records for p in (*r.neighborhood_prompts, *r.attribute_prompts)}
    subjects = {request.subject for request in edited}
    gone = {
        question.prompt
        for request in edited
        for probe in request.probes
        for question in probe.conditions
        if request.subject in question.prompt and question not in probe.questions
    }
    gone |= {p for p, relation, own_one in around if touched.touches(p, relation, None if relation else own_one)}
    stated = own.keys() | {prompt for prompt, *_ in around}

    def stays(prompt: str, target: str) -> bool:
        return prompt in own or (prompt not in gone and (prompt in stated or target not in subjects))

    kept = {prompt: changed.get(prompt, target) for prompt, target in statements if stays(prompt, target)}
    return list((kept | {p: target for p, target in changed.items() if p not in kept}).items())
