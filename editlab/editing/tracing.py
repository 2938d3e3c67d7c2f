"""Causal tracing: at which layer and token a model recalls a fact (Meng et al., 2022, arXiv 2202.05262, section 2).

Three runs of one prompt. *Clean*: the model gives the true completion the probability ``p_clean``. *Corrupted*:
Gaussian noise on the embeddings of the subject's tokens drops it to ``p_corrupt``. *Restored*: in the corrupted run the
clean output of one module (block, attention or MLP; the last two in a window of neighbouring layers) is put back at one
token, and the probability recovers to ``p_restored``. The indirect effect ``p_restored - p_corrupt`` says how much of
the recall passes through there; its average over facts points to the layers worth editing: those whose MLP outputs at
the subject's last token give back most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editlab.config.preparation import Tracing
from editlab.data.requests import EditRequest
from editlab.errors import ConfigError, DataError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen, replace_outputs
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, check_lengths
from editlab.randomness import derive_seed, torch_rng

if TYPE_CHECKING:
    import pandas as pd

SITES = ("mlp", "attention", "block")
SUBJECT, LAST = "last subject token", "last token"


@dataclasses.dataclass(frozen=True)
class TracedPrompt:
    """One prompt with its true completion.

    Attributes:
        ids: tokens of the prompt and of the completion but its last.
        subject: positions of the subject's tokens.
        prompt_length: number of tokens of the prompt.
        target: tokens of the completion.
    """

    ids: list[int]
    subject: list[int]
    prompt_length: int
    target: list[int]


def trace_layers(
    model: Any,
    requests: Sequence[EditRequest],
    options: Tracing,
    *,
    seed: int = 0,
    max_rows: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Restore every layer's block, attention and MLP output at the subject's last token and at the last token.

    Args:
        model: causal language model with ``model.tokenizer``.
        requests: facts that the model knows.
        options: ``noise`` is in standard deviations of the subject-token embeddings over ``requests``; the ``samples`` draws
            of a fact are the same for every layer and site; ``window`` layers around each layer are restored together,
            for MLP and attention outputs (a block's output is always restored alone; default a tenth of the layers, at
            least one). Which requests are traced is the caller's choice.
        max_rows: corrupted runs in one forward pass.

    Returns:
        Rows of case_id, layer, site, position, p_clean, p_corrupt, p_restored: probabilities of the whole true
        completion, the last two averaged over the noise draws.

    Raises:
        DataError: no requests.
        ModelError: a prompt longer than the model's context.
    """
    import pandas as pd
    from tqdm import tqdm

    architecture = Architecture(model)
    layers = architecture.num_layers
    window = options.window or max(1, round(layers / 10))
    if not requests:
        raise DataError("tracing: no requests to trace")
    prompts = [encode(Encoder(tokenizer_of(model)), request) for request in requests]
    check_lengths([prompt.ids for prompt in prompts], model)
    scale = options.noise * subject_deviation(architecture, prompts)
    width = int(architecture.embeddings.weight.shape[1])  # type: ignore[index]
    rows: list[dict[str, Any]] = []
    cases = list(zip(requests, prompts, strict=True))
    with torch.no_grad(), frozen(model):
        for request, prompt in tqdm(cases, desc="causal tracing", unit="fact", disable=None if progress else True):
            generator = torch_rng("tracing", seed, request.case_id)
            draws = scale * torch.randn(options.samples, len(prompt.subject), width, generator=generator)
            rows += _trace(architecture, request.case_id, prompt, draws, window, max_rows)
    return pd.DataFrame(rows)


def encode(encoder: Encoder, request: EditRequest) -> TracedPrompt:
    """Tokens of a request's rewrite prompt and true completion, and where the subject's tokens are."""
    start = request.prompt.index("{}")
    end = start + len(request.subject.rstrip())
    text = request.rewrite_prompt
    (row,) = encoder.pairs([text], [request.target_true])
    subject = row.span(start, end)
    if not subject:
        raise DataError(f"case {request.case_id[:40]!r}: subject not found among the tokens of {text[:80]!r}")
    return TracedPrompt([*row.prompt, *row.target[:-1]], subject, len(row.prompt), row.target)


def subject_deviation(architecture: Architecture, prompts: Sequence[TracedPrompt]) -> float:
    """Standard deviation over all entries of the embeddings of all subject tokens."""
    ids = [prompt.ids[i] for prompt in prompts for i in prompt.subject]
    with torch.no_grad():
        vectors = architecture.embeddings(torch.tensor(ids, device=architecture.device))
    return float(vectors.float().std())


def _trace(
    architecture: Architecture, case_id: str, prompt: TracedPrompt, draws: Tensor, window: int, max_rows: int
) -> list[dict[str, Any]]:
    """All rows of one fact."""
    layers = range(architecture.num_layers)
    clean = clean_outputs(architecture, prompt)
    p_clean = float(clean.probability)
    p_corrupt = float(restored_probability(architecture, prompt, draws, clean, "block", [], [[]])[0])
    rows = []
    for site in SITES:
        spans = [_span(layer, 1 if site == "block" else window, len(layers)) for layer in layers]
        size = max(1, max_rows // len(draws))
        for position, index in ((SUBJECT, prompt.subject[-1]), (LAST, prompt.prompt_length - 1)):
            found: list[float] = []
            for first in range(0, len(layers), size):
                part = spans[first : first + size]
                found += restored_probability(architecture, prompt, draws, clean, site, [index], part).tolist()
            rows += [
                {
                    "case_id": case_id,
                    "layer": layer,
                    "site": site,
                    "position": position,
                    "p_clean": p_clean,
                    "p_corrupt": p_corrupt,
                    "p_restored": found[layer],
                }
                for layer in layers
            ]
    return rows


def _span(layer: int, window: int, layers: int) -> list[int]:
    """``window`` layers around ``layer``, fewer at the ends."""
    return [i for i in range(layer - window // 2, layer - window // 2 + window) if 0 <= i < layers]


@dataclasses.dataclass(frozen=True)
class CleanRun:
    """Module outputs ``(length, d)`` by (site, layer), and the probability of the completion."""

    outputs: Mapping[tuple[str, int], Tensor]
    probability: Tensor


def clean_outputs(architecture: Architecture, prompt: TracedPrompt) -> CleanRun:
    """One run without noise."""
    modules = {
        (site, layer): _module(architecture, site, layer) for site in SITES for layer in range(architecture.num_layers)
    }
    with torch.no_grad(), capture(outputs=modules) as captured:
        probability = _probabilities(architecture, prompt, 1)[0]
    return CleanRun({key: output[0] for key, output in captured.items()}, probability)


def restored_probability(
    architecture: Architecture,
    prompt: TracedPrompt,
    draws: Tensor,
    clean: CleanRun,
    site: str,
    positions: Sequence[int],
    spans: Sequence[Sequence[int]],
) -> Tensor:
    """Probability of the completion in the corrupted run when the clean outputs of some layers are put back.

    Args:
        draws: (samples, subject tokens, d) noise, added to the subject's embeddings.
        site: "mlp", "attention" or "block".
        positions: tokens at which the outputs are restored.
        spans: layers restored together; one set of runs each, all in one forward pass.

    Returns:
        (spans,) mean over the noise draws.
    """
    samples = len(draws)
    noise = draws.repeat(len(spans), 1, 1)
    subject, chosen = torch.tensor(prompt.subject), torch.tensor(list(positions), dtype=torch.long)

    def corrupt(embeddings: Tensor) -> Tensor:
        embeddings = embeddings.clone()
        embeddings[:, subject] += noise.to(embeddings)
        return embeddings

    def restore(layer: int) -> Callable[[Tensor], Tensor]:
        runs = [i * samples + k for i, span in enumerate(spans) if layer in span for k in range(samples)]

        def put_back(output: Tensor) -> Tensor:
            output = output.clone()
            output[torch.tensor(runs)[:, None], chosen] = clean.outputs[site, layer][chosen]
            return output

        return put_back

    edits: dict[nn.Module, Callable[[Tensor], Tensor]] = {architecture.embeddings: corrupt}
    if positions:
        restored = sorted({layer for span in spans for layer in span})
        edits |= {_module(architecture, site, layer): restore(layer) for layer in restored}
    with torch.no_grad(), replace_outputs(edits):
        probabilities = _probabilities(architecture, prompt, samples * len(spans))
    return probabilities.reshape(len(spans), samples).mean(1)


def _module(architecture: Architecture, site: str, layer: int) -> nn.Module:
    finders = {"mlp": architecture.mlp, "attention": architecture.attention, "block": architecture.block}
    return finders[site](layer)


def _probabilities(architecture: Architecture, prompt: TracedPrompt, rows: int) -> Tensor:
    """(rows,) probability of the whole completion after the prompt, in float64 on the CPU."""
    ids = torch.tensor([prompt.ids], device=architecture.device).expand(rows, -1)
    hidden = architecture.model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    logits = architecture.head(hidden[:, prompt.prompt_length - 1 :])
    target = torch.tensor(prompt.target, device=logits.device)
    logs = logits.double().log_softmax(-1)[:, torch.arange(len(target)), target]
    return logs.sum(1).exp().cpu()


def indirect_effects(frame: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Average indirect effect ``p_restored - p_corrupt`` of each (layer, site, position), with 95 % intervals.

    Returns:
        Rows of layer, site, position, effect, ci_low, ci_high (bootstrap over cases), p_clean, p_corrupt, n.
    """
    import numpy as np
    import pandas as pd

    rows = []
    for (layer, site, position), part in frame.groupby(["layer", "site", "position"], sort=True):
        effects = (part["p_restored"] - part["p_corrupt"]).to_numpy()
        rng = np.random.default_rng(derive_seed("indirect effects", layer, site, position))
        means = effects[rng.integers(0, len(effects), (resamples, len(effects)))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        row = {"layer": layer, "site": site, "position": position, "effect": effects.mean()}
        row |= {"ci_low": low, "ci_high": high, "p_clean": part["p_clean"].mean()}
        rows.append(row | {"p_corrupt": part["p_corrupt"].mean(), "n": len(effects)})
    return pd.DataFrame(rows)


def choose_layers(effects: pd.DataFrame, count: int) -> list[int]:
    """The ``count`` neighbouring layers whose MLP outputs at the subject's last token have the largest mean effect.

    Args:
        effects: table of :func:`indirect_effects`.

    Raises:
        ConfigError: ``count`` is not in 1..number of layers.
    """
    chosen = effects[(effects["site"] == "mlp") & (effects["position"] == SUBJECT)].sort_values("layer")
    values = chosen["effect"].to_numpy()
    if not 1 <= count <= len(values):
        raise ConfigError(f"tracing: top: {count} is not allowed; give 1 to {len(values)}")
    means = [float(values[i : i + count].mean()) for i in range(len(values) - count + 1)]
    first = max(range(len(means)), key=lambda i: (means[i], -i))
    return [int(layer) for layer in chosen["layer"].iloc[first : first + count]]
