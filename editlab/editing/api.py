"""``editlab.edit``: a session in one call, for use without a workflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from editlab.algebra.curvature import Curvature
from editlab.algebra.second_moment import SecondMoment
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.config.solvers import SOLVERS
from editlab.data import batches
from editlab.data.forms import as_requests
from editlab.data.requests import EditRequest
from editlab.data.subject_prompts import SubjectPrompts
from editlab.editing.followup import unconverged_share, warn_unconverged
from editlab.editing.keys import CLEAN, Contexts
from editlab.editing.session import EditSession
from editlab.edits.edit import Edit
from editlab.errors import ConfigError, NumericalError
from editlab.networks.architectures import Architecture


def edit(
    model: torch.nn.Module,
    requests: EditRequest | Mapping[str, Any] | Sequence[EditRequest | Mapping[str, Any]],
    *,
    method: str = "memit",
    layers: Sequence[int] | None = None,
    statistics: Any = None,
    contexts: Contexts = CLEAN,
    batch: int | None = None,
    replay: float = 0.0,
    rank: int = 0,
    probes: Sequence[EditRequest] = (),
    tuning: Sequence[EditRequest] = (),
    texts: Sequence[str] = (),
    relations: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = False,
    **hyperparameters: Any,
) -> Edit:
    """Edit facts and return the change; the model itself is given back unchanged.

    Args:
        model: a transformers causal language model that carries its tokenizer (:func:`editlab.load_model`).
        requests: the facts (:func:`editlab.load_requests`), or one; records of any known form will do too.
        method: a solver: rome, r_rome, memit, emmet, alphaedit, evoedit, rect, prune, prune_published, nse, encore, ultra,
            ft, ft_epochs, random or none.
        layers: edited layers.
        statistics: second moments of the keys: a statistics file, a directory of them, or ``{layer: (d_in, d_in)}``; for
            ft_epochs the curvature (:func:`collect_curvature`).
        contexts: grouped templates such as ``[["{}"], ["Yes. {}", "I think. {}"]]``.
        batch: facts solved together; default all (ROME: one).
        replay: replayed facts per new fact.
        rank: of the adapter, with ``backend="lora"``.
        probes: held-out records that a ``trust`` guard looks at; not among the requests or their neighbours.
        tuning, texts: facts and sentences that the gate of ``backend="memory"`` is calibrated on, where no ``gate`` is given;
            not among the requests. Such facts are also the ``anchor_pilots``.
        relations: what else may be asked of subjects, ``{relation: [templates]}`` or ``{relation: {"type", "templates"}}``, which
            a ``subject_weight`` holds; default: what the requests themselves ask of the same subjects.
        progress: show a bar of the facts edited so far.
        hyperparameters: of the solver and its targets (:mod:`editlab.config.solvers`), and what every recipe has
            (:class:`editlab.config.recipe.Recipe`): ``backend, trust, greedy, replay_capacity`` and so on.

    Returns:
        the edit; ``with edit.applied(model): ...`` uses it, ``edit.to_peft(directory)`` exports it.

    Raises:
        ConfigError: unknown method or hyper-parameter, a value that is not allowed, missing statistics.
        NumericalError: a batch was rejected.
    """
    if method not in SOLVERS:
        raise ConfigError(f"method: {method!r} is not allowed; one of {', '.join(SOLVERS)}")
    if layers is None:
        raise ConfigError(f"layers: required; give one or more of 0..{Architecture(model).num_layers - 1}")
    facts = as_requests(requests)
    if not facts:
        raise ConfigError("requests: none given; at least one is needed")
    given = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else layers
    chunks = list(batches(facts, (SOLVERS[method].max_batch or len(facts)) if batch is None else batch))
    if (last := len(chunks[-1])) < (least := SOLVERS[method].min_batch):
        raise ConfigError(f"batch: one of {last} fact(s) is not allowed; {method} needs batches of {least} or more")
    if SOLVERS[method].reads:
        raise ConfigError(
            f"method: {method!r} is not allowed; it changes no model, and is there to be compared with in runs"
        )
    recipe = validated(Recipe, {"solver": method, "layers": given, **hyperparameters}, "edit")
    session = EditSession(
        model,
        recipe,
        statistics=statistics,
        contexts=contexts,
        replay=replay,
        rank=rank,
        probes=probes,
        seed=seed,
        anchor_texts=texts,
        tuning=tuning,
        relations=SubjectPrompts.of_records(facts)
        if relations is None
        else SubjectPrompts.of_table(relations, "relations"),
    )
    with session, tqdm(total=len(facts), unit="fact", desc=method, disable=not progress) as bar:
        for chunk in chunks:
            event = session.step(chunk)
            if event.decision == "rejected":
                raise NumericalError(f"edit rejected in batch {event.batch}: {event.reason}")
            bar.update(len(chunk))
        session.finish()
        unconverged = unconverged_share(session.events)
        warn_unconverged(unconverged)
        found = session.edit()
        return dataclasses.replace(found, info={**found.info, "unconverged": unconverged})


def collect_statistics(
    model: Any, texts: str | Path | Iterable[str], layers: Sequence[int] | None = None, *, progress: bool = True
) -> dict[int, SecondMoment]:
    """Second moments of the keys over a text, ready for ``edit(..., statistics=...)``.

    Args:
        model: causal language model with its tokenizer (:func:`editlab.load_model`).
        texts: texts, or the name of a text file. The more the better: ten times d_in tokens are read where they are there.
        layers: those that will be edited; default all.
        progress: show a bar.

    Returns:
        {layer: second moment}.

    Raises:
        DataError: the file cannot be read, or the texts hold no token.
        ModelError: no tokenizer, or a layer out of range.
    """
    from editlab.moments.collection import collect_second_moments

    return collect_second_moments(model, _lines(texts), _chosen(model, layers), progress=progress)


def collect_curvature(
    model: Any, texts: str | Path | Iterable[str], layers: Sequence[int] | None = None, *, progress: bool = True
) -> dict[int, Curvature]:
    """Curvature of the model's loss at the edited maps over a text, ready for ``edit(..., method="ft_epochs",
    statistics=...)``: as :func:`collect_statistics`, with a pass backward too.

    Returns:
        {layer: curvature}.
    """
    from editlab.moments.curvature import collect_curvature as collect

    return collect(model, _lines(texts), _chosen(model, layers), progress=progress)


def _lines(texts: str | Path | Iterable[str]) -> Iterable[str]:
    from editlab.data import read_text

    return read_text(texts) if isinstance(texts, str | Path) else texts


def _chosen(model: Any, layers: Sequence[int] | None) -> list[int]:
    return list(range(Architecture(model).num_layers) if layers is None else layers)
