"""Questions beyond the edited fact: portability, locality, multi-hop, RippleEdits' tests, and freely generated answers.

Every question is scored three ways. *accuracy* is teacher forcing, as everywhere else: each token of the usual answer is
the argmax. *exact* and *contained* look at what the model writes by itself: greedy decoding up to the natural stop (full
stop, line break or end of text; a full stop inside of a right answer, as in Washington, D.C., is none), and after SQuAD's
normalisation the text is, or holds as whole words, one of the answer's names (WILD, Yang et al., 2025, arXiv 2502.11177). A
probe counts only when the unedited model answers its conditions (RippleEdits, Cohen et al., 2024, arXiv 2307.12976, section
5): by the same measure, so that accuracy is conditioned on accuracy and generated answers on *contained*, as published.
Only new text is looked at; the published code also searched the prompt.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from editlab.data.probes import (
    COMPOSITION,
    GENERATION,
    LOCALITY,
    MULTI_HOP,
    PORTABILITY,
    SINGLE_HOP,
    Probe,
    Question,
)
from editlab.data.requests import EditRequest
from editlab.evaluation.generation import continue_prompts
from editlab.evaluation.scoring import score_targets
from editlab.randomness import derive_seed, python_rng

MEASURES = ("accuracy", "exact", "contained")
STOPS = (".", "\n")
"""Decoding ends with the first; a line break may also open an answer."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))

Verdicts = Mapping[Question, Mapping[str, bool]]


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _comparable(text: str) -> str:
    """The text normalised, or in lower case where nothing of it would be left (``)``, ``The``)."""
    return normalise(text) or text.strip().lower()


def first_sentence(text: str) -> str:
    """What stands before the first stop character."""
    text = text.strip()
    ends = [at for stop in STOPS if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def answer_questions(
    model: Any, questions: Sequence[Question], *, max_new_tokens: int = 16, template: str = "{}"
) -> dict[Question, dict[str, bool]]:
    """Whether the model answers each question rightly, by each of :data:`MEASURES`.

    Args:
        max_new_tokens: of a generated answer.
        template: put around each prompt, e.g. ``"Q: {}\\nA:"`` for questions to a model that continues text.

    Raises:
        DataError: an answer has no tokens.
        ModelError: a prompt and its answer are longer than the model's context.
    """
    distinct = list(dict.fromkeys(questions))
    if not distinct:
        return {}
    prompts = [template.replace("{}", question.prompt, 1) for question in distinct]
    pairs = [(prompt, names[0]) for prompt, q in zip(prompts, distinct, strict=True) for names in q.answers]
    forced = iter(score_targets(model, pairs).correct.tolist())
    texts = _written(model, distinct, prompts, max_new_tokens)
    found = {}
    for question, text in zip(distinct, texts, strict=True):
        written = _comparable(text)
        spelt = [next(forced) for _ in question.answers]
        names = [[_comparable(name) for name in answer] for answer in question.answers]
        found[question] = {
            "accuracy": all(spelt),
            "exact": len(names) == 1 and bool(written) and written in names[0],
            "contained": all(any(f" {name} " in f" {written} " for name in answer) for answer in names),
        }
    return found


def _written(model: Any, questions: Sequence[Question], prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """What the model writes as each answer, up to the first stop that is not part of one of its names (Washington, D.C.)."""
    dotted = [[name for answer in q.answers for name in answer if STOPS[0] in name[:-1]] for q in questions]
    texts = [""] * len(questions)
    for stop in (STOPS[0], None):
        chosen = [i for i, names in enumerate(dotted) if bool(names) == (stop is None)]
        found = continue_prompts(model, [prompts[i] for i in chosen], max_new_tokens, stop=stop) if chosen else []
        for i, text in zip(chosen, found, strict=True):
            texts[i] = first_sentence(_without_stops(text, dotted[i]))
    return texts


def _without_stops(text: str, names: Sequence[str]) -> str:
    """The text with spaces for the stops inside of these names; one at the end of a name may end the sentence too."""
    for name in sorted(names, key=len, reverse=True):
        plain = name[:-1].replace(STOPS[0], " ") + name[-1]
        text = re.sub(re.escape(name), lambda _, plain=plain: plain, text, flags=re.IGNORECASE)  # type: ignore[misc]
    return text


def conditions_of(requests: Sequence[EditRequest]) -> list[Question]:
    """Every question that must be put to the model before it is edited."""
    return list(dict.fromkeys(q for r in requests for probe in r.probes for q in probe.conditions))


def questions_of(requests: Sequence[EditRequest]) -> list[Question]:
    """Every question that is put to the model after it was edited."""
    return list(dict.fromkeys(q for r in requests for probe in r.probes for q in probe.questions))


def sample_probes(requests: Sequence[EditRequest], most: int, seed: int) -> list[EditRequest]:
    """The requests with the probes that are scored, and with their own fact as one of the kind "generation".

    Of each kind, the probes of ``most`` requests at most are kept, drawn by seed. One order of the requests serves all
    kinds, so that a multi-hop question stays together with its single hops. Requests without a probe are left out.
    """
    left: Counter[str] = Counter()
    kept: dict[int, tuple[Probe, ...]] = {}
    for i in python_rng("probed requests", seed).sample(range(len(requests)), len(requests)):
        probes = (*requests[i].probes, Probe(GENERATION, (rewrite_question(requests[i]),)))
        kept[i] = tuple(probe for probe in probes if left[probe.kind] < most)
        left.update({probe.kind for probe in probes})
    return [dataclasses.replace(requests[i], probes=kept[i]) for i in sorted(kept) if kept[i]]


def rewrite_question(request: EditRequest) -> Question:
    """The edited fact as a question."""
    return Question(request.rewrite_prompt, ((request.target_new, *request.target_aliases),))


def score_probes(requests: Sequence[EditRequest], before: Verdicts, after: Verdicts) -> pd.DataFrame:
    """Verdicts on every probe: one row a (case, kind, number, measure); ``right`` is NaN where a condition fails.

    Args:
        before: verdicts of the unedited model on :func:`conditions_of`.
        after: verdicts of the edited model on :func:`questions_of`.

    Returns:
        columns case_id, kind, index, measure, right. A multi-hop question of which every single hop is answered also
        counts as "multi_hop_of_known_hops".
    """
    rows = []
    for request in requests:
        hops = next((probe for probe in request.probes if probe.kind == SINGLE_HOP), None)
        for index, probe in enumerate(request.probes):
            for measure in MEASURES:
                right = _verdict(probe, before, after, measure)
                rows.append((request.case_id, probe.kind, index, measure, right))
                if probe.kind == MULTI_HOP and hops is not None:
                    known = _verdict(hops, before, after, measure) == 1.0
                    rows.append(
                        (request.case_id, "multi_hop_of_known_hops", index, measure, right if known else np.nan)
                    )
    return pd.DataFrame(rows, columns=["case_id", "kind", "index", "measure", "right"])


def _verdict(probe: Probe, before: Verdicts, after: Verdicts, measure: str) -> float:
    condition = "accuracy" if measure == "accuracy" else "contained"
    if not all(before[question][condition] for question in probe.conditions):
        return float("nan")
    verdicts = [after[question][measure] for question in probe.questions]
    return float(all(verdicts) if probe.every else any(verdicts))


def summarize_probes(frame: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Shares of right probes with intervals over cases.

    Args:
        frame: of :func:`score_probes`.
        resamples: bootstrap resamples of the cases; 0 gives no intervals (NaN).

    Returns:
        columns metric, protocol (the measure), value, n (cases), ci_low, ci_high. Metrics: every kind by itself;
        ``portability``, ``locality`` and ``compositionality`` over their kinds; ``KIND_executed``, the share of probes
        whose conditions held, for kinds with conditions; ``generation`` with the protocol ``gap``: accuracy less exact.
    """
    groups = {"portability": PORTABILITY, "locality": LOCALITY, "compositionality": COMPOSITION}
    groups |= {kind: (kind,) for kind in sorted(frame["kind"].unique())}
    rows = []
    for metric, kinds in groups.items():
        chosen = frame[frame["kind"].isin(kinds)]
        for measure in MEASURES if len(chosen) else ():
            part = chosen[chosen["measure"] == measure]
            values = part.groupby("case_id")["right"].mean().dropna().to_numpy()
            rows.append((metric, measure, *_interval(values, resamples, seed)))
            if part["right"].isna().any() and len(kinds) == 1:
                held = part["right"].notna()
                rows.append((f"{metric}_executed", measure, float(held.mean()), len(part), np.nan, np.nan))
    rows += _gap(frame, resamples, seed)
    return pd.DataFrame(rows, columns=["metric", "protocol", "value", "n", "ci_low", "ci_high"])


def _gap(frame: pd.DataFrame, resamples: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """How far teacher forcing flatters: accuracy less exact match of the same facts."""
    facts = frame[frame["kind"] == GENERATION]
    if len(facts):
        wide = facts.pivot_table(index="case_id", columns="measure", values="right")
        yield (GENERATION, "gap", *_interval((wide["accuracy"] - wide["exact"]).to_numpy(), resamples, seed))


def _interval(values: np.ndarray, resamples: int, seed: int) -> tuple[float, int, float, float]:
    """(mean, n, low, high): percentile bootstrap over cases."""
    if not len(values):
        return float("nan"), 0, float("nan"), float("nan")
    if not resamples:
        return float(values.mean()), len(values), float("nan"), float("nan")
    rng = np.random.default_rng(derive_seed("probe bootstrap", seed))
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), len(values), float(low), float(high)
