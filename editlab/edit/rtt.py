"""Retraining on some facts (RTT): is an edited-away fact gone, or only covered up?

The edited model is fine-tuned on the *true* objects of a part of the edited facts. If the old objects of the *other*
edited facts come back too, the edit had hidden them and not removed them (the test of unlearning by Deeb and Roger,
2024, arXiv 2410.08827, turned on edits). Two controls tell what the fine-tuning itself does: the unedited model,
treated alike, and facts that were never edited.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editlab.edit.record import Edit
from editlab.errors import DataError
from editlab.evaluation.scoring import score_requests
from editlab.models import tokenizer_of
from editlab.randomness import python_rng
from editlab.requests import EditRequest
from editlab.tokenization import Encoder, pad

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class RttOptions:
    """How much is retrained, and how.

    Attributes:
        share: of the edited facts that are retrained.
        epochs: passes over them.
        batch: facts a step.
        lr: of Adam on all weights.
        seed: of the split and of the order.
    """

    share: float = 0.5
    epochs: int = 10
    batch: int = 32
    lr: float = 3e-4
    seed: int = 0


def retrain_on_truth(
    model: nn.Module,
    edit: Edit,
    edited: Sequence[EditRequest],
    never_edited: Sequence[EditRequest],
    options: RttOptions,
) -> pd.DataFrame:
    """Retrain the edited and the unedited model, and score the old objects before and after; both come back unchanged.

    Args:
        model: unedited.
        edited: facts that ``edit`` changed.
        never_edited: facts that it did not, with an object that was not asked for as ``target_new``.

    Returns:
        one row a (model, facts, when, probe): ``model`` edited or unedited; ``facts`` retrained, held_out or
        never_edited; ``when`` before or after; ``success`` (old object more likely than the new one), ``accuracy`` (old
        object the most likely of all) and ``n`` facts.

    Raises:
        DataError: too few facts to split.
    """
    import pandas as pd

    retrained, held_out = split(edited, options)
    groups = {"retrained": retrained, "held_out": held_out, "never_edited": list(never_edited)}
    rows: list[dict[str, Any]] = []
    for name, change in (("unedited", None), ("edited", edit)):
        with contextlib.ExitStack() as stack:
            if change is not None:
                stack.enter_context(change.applied(model))
            rows += [{"model": name, "when": "before", **row} for row in _scores(model, groups)]
            stack.enter_context(retrained_on(model, retrained, options))
            rows += [{"model": name, "when": "after", **row} for row in _scores(model, groups)]
    return pd.DataFrame(rows)


def split(edited: Sequence[EditRequest], options: RttOptions) -> tuple[list[EditRequest], list[EditRequest]]:
    """(retrained, held out): a seeded split of the edited facts."""
    count = round(options.share * len(edited))
    if not 0 < count < len(edited):
        raise DataError(f"rtt: {len(edited)} edited facts cannot be split at share {options.share}; give more facts")
    order = list(edited)
    python_rng("rtt", options.seed).shuffle(order)
    return order[:count], order[count:]


@contextlib.contextmanager
def retrained_on(model: nn.Module, facts: Sequence[EditRequest], options: RttOptions) -> Iterator[nn.Module]:
    """The model fine-tuned on the true objects of the facts; on leaving, every weight is back bit for bit."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        _train(model, facts, options)
        yield model
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])
                parameter.requires_grad_(trainable[name])
                parameter.grad = None


def _train(model: nn.Module, facts: Sequence[EditRequest], options: RttOptions) -> None:
    encoder = Encoder(tokenizer_of(model))
    prompts = encoder.prompts([r.rewrite_prompt for r in facts])
    targets = encoder.targets([r.target_true for r in facts])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    for epoch in range(options.epochs):
        order = list(range(len(facts)))
        python_rng("rtt order", options.seed, epoch).shuffle(order)
        for start in range(0, len(order), options.batch):
            chosen = order[start : start + options.batch]
            loss = _loss(model, [prompts[i] for i in chosen], [targets[i] for i in chosen], encoder.pad_id)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _loss(model: nn.Module, prompts: list[list[int]], targets: list[list[int]], pad_id: int) -> Tensor:
    """Mean negative log-likelihood of the targets' tokens."""
    rows = [p + t for p, t in zip(prompts, targets, strict=True)]
    ids, mask = pad(rows, pad_id, next(model.parameters()).device)
    labels = torch.full_like(ids, -100)
    for k, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        labels[k, len(prompt) : len(row)] = ids[k, len(prompt) : len(row)]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def _scores(model: nn.Module, groups: dict[str, list[EditRequest]]) -> list[dict[str, Any]]:
    """Scores of the old objects: the requests turned round."""
    rows: list[dict[str, Any]] = []
    for name, facts in groups.items():
        turned = [dataclasses.replace(r, target_new=r.target_true, target_true=r.target_new) for r in facts]
        if not turned:
            continue
        frame = score_requests(model, turned, ("rewrite", "paraphrase"))
        for probe, part in frame.groupby("probe", sort=True):
            means = part.groupby("case_id")[["success", "accuracy"]].mean().mean()
            values = {"success": float(means["success"]), "accuracy": float(means["accuracy"])}
            rows.append({"facts": name, "probe": probe, **values, "n": part["case_id"].nunique()})
    return rows
