"""How likely a model finds a target after a prompt: the scorer behind every edit metric.

A (prompt, target) pair is scored by the mean log-probability of the target's tokens, and is *correct* when each of them
is the argmax (teacher forcing), as in the published evaluation code. Prompts are shared by targets (new against true)
and by facts (neighbours), so the work is laid out around prompts: each distinct prompt is encoded once and run once, in
batches of similar length; its last position alone scores every one-token target. A longer target then feeds only its
tokens but the last through the model, on top of the prompt's keys and values. The vocabulary is projected to only where
a target token is predicted. Packing changes the order of the work, never the result beyond rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from editlab.data.requests import EditRequest
from editlab.errors import ConfigError, DataError
from editlab.evaluation.prompts import KEPT, PROBES, Surroundings, prompt_rows
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.prefix import FrozenPrefix, PromptStates, run_prompts, suffix_mask
from editlab.networks.reading import Reader, reader_of
from editlab.networks.tokenization import Encoder, check_lengths, pad

UNSAID = -100.0  # log-probability of what an answer that is looked up does not say
LOGIT_BUDGET = 2**24  # logits held at a time, in numbers (64 MiB in float32)


@dataclasses.dataclass(frozen=True)
class TargetScores:
    """Scores of (prompt, target) pairs, in the order in which they were given.

    Attributes:
        log_prob: ``(pairs,)`` float64, mean natural-log probability of a target token.
        correct: ``(pairs,)`` bool, every target token is the model's most probable one.
        tokens: ``(pairs,)`` int64, number of target tokens.
    """

    log_prob: NDArray[np.float64]
    correct: NDArray[np.bool_]
    tokens: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Work:
    """Distinct prompts and pairs; ``pair_prompt`` is sorted, so the pairs of a prompt lie together."""

    prompts: list[list[int]]
    targets: list[list[int]]
    pair_prompt: NDArray[np.int64]
    pair_target: NDArray[np.int64]
    inverse: NDArray[np.int64]  # given pair -> distinct pair

    @property
    def tokens(self) -> NDArray[np.int64]:
        lengths = np.array([len(t) for t in self.targets], dtype=np.int64)
        return lengths[self.pair_target]


def score_targets(model: Any, pairs: Sequence[tuple[str, str]], *, max_tokens: int = 4096) -> TargetScores:
    """Score each (prompt, target) pair under the model.

    Args:
        model: a causal language model with its tokenizer as ``model.tokenizer``.
        pairs: prompts without a trailing space and targets without a leading one; repeats cost nothing.
        max_tokens: padded tokens a batch may hold; bounds memory, does not change the scores.

    Raises:
        ConfigError: ``max_tokens`` is below 1.
        DataError: a target is blank, or a prompt has no tokens.
        ModelError: no tokenizer, an unsupported family, or a pair longer than the model's context.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens: {max_tokens} is not allowed; at least 1")
    if not pairs:
        return TargetScores(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
    if (reader := reader_of(model)) is not None:
        return _scored_beside(model, reader, pairs, max_tokens)
    return _scored(model, pairs, max_tokens)


def _scored_beside(model: Any, reader: Reader, pairs: Sequence[tuple[str, str]], max_tokens: int) -> TargetScores:
    """Scores where a reader stands beside the model: of what it shows the model, or of the answer that it gives itself."""
    prompts = [prompt for prompt, _ in pairs]
    shown = reader.shown(prompts)
    found = _scored(model, [(prompt, target) for prompt, (_, target) in zip(shown, pairs, strict=True)], max_tokens)
    answers = reader.answers(prompts)
    given = np.array([answer is not None for answer in answers])
    right = np.array([answer == target for answer, (_, target) in zip(answers, pairs, strict=True)])
    log_prob = np.where(given, np.where(right, 0.0, UNSAID), found.log_prob)
    return TargetScores(log_prob, np.where(given, right, found.correct), found.tokens)


def _scored(model: Any, pairs: Sequence[tuple[str, str]], max_tokens: int) -> TargetScores:
    encoder = Encoder(tokenizer_of(model))
    work = _lay_out(encoder, pairs)
    _check_context(work, model)
    total, correct = np.zeros(len(work.pair_prompt)), np.ones(len(work.pair_prompt), dtype=bool)
    with frozen(model), torch.no_grad():
        architecture = Architecture(model)
        for batch in _prompt_batches(work, max_tokens):
            for where, log_prob, right in _score_batch(architecture, encoder.pad_id, work, batch, max_tokens):
                np.add.at(total, where, log_prob)
                np.logical_and.at(correct, where, right)
    tokens = work.tokens
    return TargetScores((total / tokens)[work.inverse], correct[work.inverse], tokens[work.inverse])


def pack(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> list[list[int]]:
    """Indices sorted by length and cut into batches of at most ``max_tokens`` padded tokens (at least one row each)."""
    batches: list[list[int]] = []
    for index in np.argsort(np.asarray(lengths), kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * int(lengths[index]) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def token_scores(
    architecture: Architecture, hidden: Tensor, rows: Tensor, tokens: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of a next token, and whether it is the most probable one.

    Args:
        hidden: ``(positions, d)`` after the final norm.
        rows: ``(n,)`` position that predicts each token, ascending.
        tokens: ``(n,)`` token ids.

    Returns:
        ``(n,)`` log-probabilities (float32 arithmetic, whatever the model's dtype) and ``(n,)`` flags. A model broken
        to NaN predicts nothing: -inf and False.
    """
    head: Any = architecture.head
    step = max(1, LOGIT_BUDGET // int(head.weight.shape[0]))
    log_probs, rights = [], []
    for start in range(0, hidden.shape[0], step):
        bounds = torch.searchsorted(rows, torch.tensor([start, start + step], device=rows.device))
        low, high = bounds.tolist()
        if low == high:
            continue
        logits = head(hidden[start : start + step]).float()
        local, wanted = rows[low:high] - start, tokens[low:high]
        log_prob = logits[local, wanted] - logits.logsumexp(1)[local]
        rights.append((logits.argmax(1)[local] == wanted) & ~log_prob.isnan())
        log_probs.append(log_prob.nan_to_num(nan=-torch.inf, neginf=-torch.inf))
    return torch.cat(log_probs).double().cpu().numpy(), torch.cat(rights).cpu().numpy()


def score_requests(
    model: Any,
    requests: Sequence[EditRequest],
    probes: Sequence[str] = PROBES,
    *,
    around: Surroundings | None = None,
    max_tokens: int = 4096,
) -> pd.DataFrame:
    """Score the probe prompts of requests: one row a (case, probe, prompt).

    Columns: case_id, probe, index (of the prompt in its probe set), log_prob_new, log_prob_true, success, accuracy,
    magnitude. With p = exp(mean log-probability a token): on ``rewrite`` and ``paraphrase`` prompts success is
    p(new) > p(true), accuracy whether new is the argmax, magnitude p(new) - p(true); on ``neighborhood`` prompts the
    same with the neighbour's right answer in the place of new and new in the place of true. There, ``log_prob_true``
    belongs to the neighbour's right answer. Ties are no success. (ROME, arXiv 2202.05262, section 3.3.)

    Args:
        around: tells neighbours that are edited themselves from the others, and adds rows ``same_subject``: the rewrite
            prompts of unedited facts of the subject, right answer against that fact's own ``target_new``, an object of
            the same relation. None: all neighbours are of one kind, as in the published protocol.

    Raises:
        ConfigError: a probe is not one of :data:`PROBES`; else as :func:`score_targets`.
    """
    unknown = [p for p in probes if p not in PROBES]
    if unknown:
        raise ConfigError(f"probes: {unknown[0]!r} is not allowed; {', '.join(PROBES)}")
    rows = [row for request in requests for row in prompt_rows(request, list(dict.fromkeys(probes)), around)]
    new = [(prompt, target) for _, _, _, prompt, target, _ in rows]
    true = [(prompt, target) for _, _, _, prompt, _, target in rows]
    scores = score_targets(model, new + true, max_tokens=max_tokens)
    n = len(rows)
    log_new, log_true = scores.log_prob[:n], scores.log_prob[n:]
    frame = pd.DataFrame([row[:3] for row in rows], columns=["case_id", "probe", "index"])
    keep = frame["probe"].isin(KEPT).to_numpy(dtype=bool)
    gap = np.exp(log_new) - np.exp(log_true)
    return frame.assign(
        log_prob_new=log_new,
        log_prob_true=log_true,
        success=np.where(keep, log_true > log_new, log_new > log_true).astype(float),
        accuracy=np.where(keep, scores.correct[n:], scores.correct[:n]).astype(float),
        magnitude=np.where(keep, -gap, gap),
    )


def check_prompts(model: Any, requests: Sequence[EditRequest], probes: Sequence[str] = PROBES) -> None:
    """Whether the model's context holds all that is asked of requests, before anything is edited.

    Raises:
        ModelError: a prompt and its answer are longer.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if not limit:
        return
    rows = [row for request in requests for row in prompt_rows(request, list(probes), None)]
    pairs = {(prompt, target) for *_, prompt, new, true in rows for target in (new, true)}
    questions = (q for r in requests for p in r.probes for q in (*p.questions, *p.conditions))
    pairs |= {(q.prompt, names[0]) for q in questions for names in q.answers}
    # A token is at least a byte: only a text of so many bytes can be too long.
    long = sorted(pair for pair in pairs if len(" ".join(pair).encode()) + 2 > limit)
    if long:
        _check_context(_lay_out(Encoder(tokenizer_of(model)), long), model)


def _lay_out(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> _Work:
    texts = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    rows = encoder.pairs([p for p, _ in texts], [t for _, t in texts])
    for (prompt, _), row in zip(texts, rows, strict=True):
        if not row.prompt:
            raise DataError(f"score_targets: prompt {prompt!r} has no tokens under this tokenizer")
    prompts = {ids: i for i, ids in enumerate(dict.fromkeys(tuple(row.prompt) for row in rows))}
    targets = {ids: i for i, ids in enumerate(dict.fromkeys(tuple(row.target) for row in rows))}
    codes = np.array(
        [prompts[tuple(row.prompt)] * len(targets) + targets[tuple(row.target)] for row in rows], dtype=np.int64
    )[[texts[pair] for pair in pairs]]
    distinct, inverse = np.unique(codes, return_inverse=True)
    pair_prompt, pair_target = np.divmod(distinct, len(targets))
    return _Work([list(p) for p in prompts], [list(t) for t in targets], pair_prompt, pair_target, inverse)


def _check_context(work: _Work, model: Any) -> None:
    lengths = np.array([len(p) for p in work.prompts])[work.pair_prompt] + work.tokens
    longest = int(np.argmax(lengths))
    check_lengths([work.prompts[work.pair_prompt[longest]] + work.targets[work.pair_target[longest]]], model)


def _prompt_batches(work: _Work, max_tokens: int) -> Iterator[list[int]]:
    """Batches of prompts; those with a longer target apart, because only they need keys and values."""
    longer = np.unique(work.pair_prompt[work.tokens > 1])
    shorter = np.setdiff1d(np.arange(len(work.prompts)), longer)
    for group in (shorter, longer):
        for batch in pack([len(work.prompts[i]) for i in group], max_tokens):
            yield [int(group[i]) for i in batch]


def _score_batch(
    architecture: Architecture, pad_id: int, work: _Work, batch: list[int], max_tokens: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]]:
    """(pair index, log-probability, right) of every target token after the prompts of a batch."""
    owned = [np.arange(*np.searchsorted(work.pair_prompt, [p, p + 1])) for p in batch]
    where = np.concatenate(owned)
    rows = np.repeat(np.arange(len(batch)), [len(o) for o in owned])
    targets = [work.targets[i] for i in work.pair_target[where]]
    longer = np.array([len(t) > 1 for t in targets])
    states = run_prompts(architecture, [work.prompts[p] for p in batch], pad_id, cache_from=0 if any(longer) else None)
    device = architecture.device
    last = states.last_hidden[torch.arange(len(batch), device=device), states.lengths - 1]
    first = torch.tensor([t[0] for t in targets], device=device)
    yield (where, *token_scores(architecture, last, torch.from_numpy(rows).to(device), first))
    order = np.flatnonzero(longer)
    width = int(states.lengths.max())
    for part in pack([width + len(targets[i]) - 1 for i in order], max_tokens):
        chosen = order[part]
        log_prob, right, row = _continue(architecture, pad_id, states, rows[chosen], [targets[i] for i in chosen])
        yield where[chosen][row], log_prob, right


def _continue(
    architecture: Architecture, pad_id: int, states: PromptStates, rows: NDArray[np.int64], targets: list[list[int]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Scores of the second and later tokens of ``targets`` after the prompts ``rows``, and each one's target."""
    device = architecture.device
    ids, real = pad([target[:-1] for target in targets], pad_id, device)
    wanted, _ = pad([target[1:] for target in targets], pad_id, device)
    chosen = torch.from_numpy(rows).to(device)
    width = int(states.lengths[chosen].max())
    hidden = run_suffix(architecture, ids, states, chosen, width)
    owner, position = real.nonzero(as_tuple=True)
    flat = torch.arange(len(owner), device=device)
    log_prob, right = token_scores(architecture, hidden[owner, position], flat, wanted[owner, position])
    return log_prob, right, owner.cpu().numpy()


def run_suffix(architecture: Architecture, ids: Tensor, states: PromptStates, rows: Tensor, width: int) -> Tensor:
    """Hidden states after the final norm ``(n, length, d)`` of ``ids (n, length)`` that follow the prompts ``rows``."""
    lengths = states.lengths[rows]
    positions = lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
    base: Any = architecture.model.base_model
    output = base(
        input_ids=ids,
        attention_mask=suffix_mask(lengths, width, ids.shape[1], states.last_hidden.dtype),
        position_ids=positions,
        past_key_values=FrozenPrefix.of(states, rows, width),
        use_cache=True,
    )
    return output.last_hidden_state


def rewrite_margins(model: Any, requests: Sequence[EditRequest]) -> list[float]:
    """How much more likely a token of the new object is than one of the old object on the rewrite prompt, in nats."""
    pairs = [(r.rewrite_prompt, target) for r in requests for target in (r.target_new, r.target_true)]
    log_prob = score_targets(model, pairs).log_prob
    return [float(v) for v in log_prob[::2] - log_prob[1::2]]


def score_known(model: Any, requests: Sequence[EditRequest]) -> pd.DataFrame:
    """Which rewrite prompts the model completes with the true object before any edit.

    Returns:
        one row a request: case_id, known (0/1: every token of ``target_true`` is the argmax), log_prob_true.
    """
    scores = score_targets(model, [(r.rewrite_prompt, r.target_true) for r in requests])
    return pd.DataFrame(
        {
            "case_id": [r.case_id for r in requests],
            "known": scores.correct.astype(int),
            "log_prob_true": scores.log_prob,
        }
    )
