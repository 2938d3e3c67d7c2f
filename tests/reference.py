"""The published algorithms, one fact at a time, the whole model at every step, straight from the equations.

Slow on purpose: nothing is batched, cached or cut. The library must give the same numbers.
"""

from __future__ import annotations

import math

import torch

from editlab.data.requests import EditRequest
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, replace_outputs

# The subject at the start, in the middle, at the end, twice (the templated occurrence counts), inside a longer word,
# and with characters of several bytes; targets of one and of several tokens.
_ODD = (
    ("{} was born in", "Anna Abel", "Rome"),
    ("The mother tongue of {} is", "Bruno Berg", "Old Norse"),
    ("The man whom they call {}", "Clara", "chess player"),
    ("Anna Abel said that {} works as a", "Anna Abel", "painter"),
    ("{} is not Anna Abel but", "Anna", "Buenos Aires"),
    ("In Zürich, {} speaks", "Žofie Müller", "Norwegian"),
)


def odd_requests():
    """Facts whose subjects are hard to find."""
    return [
        EditRequest(str(100 + i), prompt, subject, new, "Oslo", relation_id=f"Q{i}")
        for i, (prompt, subject, new) in enumerate(_ODD)
    ]


def moment(size, seed=0, decades=3.0):
    """A second moment (size, size) with eigenvalues from 10^-decades to 1."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    return basis @ torch.diag(torch.logspace(-decades, 0, size, dtype=torch.float64)) @ basis.T


def _ids(tokenizer, text):
    return torch.tensor([tokenizer(text).input_ids])


def completion(tokenizer, prompt, target):
    """Token ids that the target adds to the prompt in running text (of tokenizers whose prompts end where words do)."""
    alone, joined = tokenizer(prompt).input_ids, tokenizer(f"{prompt} {target}").input_ids
    assert joined[: len(alone)] == alone
    return joined[len(alone) :]


def lookup(tokenizer, template, subject):
    """Index of the subject's last token: the number of tokens of everything up to its end, minus one."""
    start = template.index("{}")
    encoding = tokenizer(template.replace("{}", subject, 1), return_offsets_mapping=True)
    ends = [i for i, (a, b) in enumerate(encoding.offset_mapping) if a < start + len(subject) and b > start and b > a]
    return ends[-1]


def state_at(model, text, position, inputs=None, outputs=None):
    with torch.no_grad(), capture(inputs, outputs) as states:
        model(input_ids=_ids(model.tokenizer, text))
    return {name: value[0, position] for name, value in states.items()}


def prompt_states(model, request, layer, template):
    """(input of the projection, MLP output, block output) at the subject's end of a filled template."""
    architecture = Architecture(model)
    text = template.replace("{}", request.subject, 1)
    states = state_at(
        model,
        text,
        lookup(model.tokenizer, template, request.subject),
        {"key": architecture.projection(layer)},
        {"mlp": architecture.mlp(layer), "block": architecture.block(layer)},
    )
    return states["key"], states["mlp"], states["block"]


def key(model, request, layer, contexts):
    """MEMIT's compute_ks: mean inside each group of contexts, then over the groups."""
    groups = []
    for group in contexts:
        found = [prompt_states(model, request, layer, c.replace("{}", request.prompt, 1))[0] for c in group]
        groups.append(torch.stack(found).mean(0))
    return torch.stack(groups).mean(0)


def value(model, request, layer, site="block"):
    _, mlp, block = prompt_states(model, request, layer, request.prompt)
    return mlp if site == "mlp" else block


def target(
    model,
    request,
    layer,
    contexts,
    *,
    steps,
    lr,
    clamp,
    weight_decay,
    kl_factor,
    site="block",
    stop=0.05,
    most_probable=False,
    others=(),
    subject_weight=0.0,
):
    """MEMIT's compute_z (site 'block') and ROME's compute_v up to the target (site 'mlp').

    ``others``: templates of the subject's other relations, whose forward KL is held with ``subject_weight``.
    ``most_probable``: stop also when the target is the argmax in all contexts (ENCORE).
    Returns z, number of updates, loss of the returned z.
    """
    architecture = Architecture(model)
    tokenizer = model.tokenizer
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    target_ids = completion(tokenizer, request.rewrite_prompt, request.target_new)
    templates = [c.replace("{}", request.prompt, 1) for group in contexts for c in group]
    texts = [(t.replace("{}", request.subject, 1), lookup(tokenizer, t, request.subject)) for t in templates]
    kl_text, kl_at = f"{request.subject} is a", lookup(tokenizer, "{} is a", request.subject)
    module = architecture.mlp(layer) if site == "mlp" else architecture.block(layer)
    base = value(model, request, layer, site)
    delta = torch.zeros_like(base, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=lr)
    before, said = None, {}

    def shifted(position):
        def add(hidden):
            hidden = hidden.clone()
            hidden[:, position] = hidden[:, position] + delta
            return hidden

        return replace_outputs({module: add})

    for step in range(steps):
        optimizer.zero_grad()
        losses, everywhere = [], True
        for text, position in texts:
            prompt = tokenizer(text).input_ids
            ids = torch.tensor([prompt + target_ids[:-1]])
            with shifted(position):
                logits = model(input_ids=ids).logits[0]
            log_probs = torch.log_softmax(logits, -1)[len(prompt) - 1 :]
            picked = log_probs[torch.arange(len(target_ids)), torch.tensor(target_ids)]
            losses.append(-picked.sum() / len(target_ids))
            everywhere &= log_probs.argmax(-1).tolist() == target_ids
        loss = torch.stack(losses).mean()
        if kl_factor:
            with shifted(kl_at):
                now = torch.log_softmax(model(input_ids=_ids(tokenizer, kl_text)).logits[0, kl_at], -1)
            before = now.detach().clone() if before is None else before
            loss = loss + kl_factor * torch.nn.functional.kl_div(before, now, log_target=True, reduction="sum")
        for template in others:
            ids = _ids(tokenizer, template.replace("{}", request.subject, 1))
            with shifted(lookup(tokenizer, template, request.subject)):
                now = torch.log_softmax(model(input_ids=ids).logits[0, -1], -1)
            then = said.setdefault(template, now.detach().clone())
            loss = loss + subject_weight * (then.exp() * (then - now)).sum() / len(others)
        loss = loss + weight_decay * torch.norm(delta) / torch.norm(base) ** 2
        if loss < stop or (most_probable and everywhere) or step == steps - 1:
            break
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            limit = clamp * base.norm()
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return (base + delta).detach(), step, float(loss.detach())


def edit_sequence(
    model,
    batches,
    layers,
    moments,
    contexts,
    solver,
    *,
    hyper,
    memory=None,
    rewind=False,
    passes=None,
    **target_options,
):
    """Edit batch after batch in place, MEMIT's way; returns {layer: total change} and restores the model.

    ``solver(K, R, C, cache, weight, original) -> dW``; all float64. ``memory``: weight with which all earlier facts are
    replayed. ``rewind``: targets on the original weights. ``passes = (count, alpha, upper)``: solve again for the facts
    whose residual is above alpha (and below upper, where there is one).
    """
    architecture = Architecture(model)
    originals = {layer: architecture.weight(layer).clone() for layer in layers}
    cache = {layer: torch.zeros(originals[layer].shape[1], originals[layer].shape[1]).double() for layer in layers}
    targets = {}

    def put(weights):
        for layer in layers:
            architecture.weight(layer).copy_(weights[layer])

    def gap(facts):
        now = torch.stack([value(model, r, layers[-1]) for r in facts], 1).double()
        return torch.stack([targets[r.case_id] for r in facts], 1) - now

    def keys_of(facts, layer):
        return torch.stack([key(model, r, layer, contexts) for r in facts], 1).double()

    low, high = (*passes[1:], math.inf)[:2] if passes else (-1.0, math.inf)
    earlier = []
    for batch in batches:
        current = {layer: architecture.weight(layer).clone() for layer in layers}
        if rewind:
            put(originals)
        for r in batch:
            targets[r.case_id] = target(model, r, layers[-1], contexts, **target_options)[0].double()
        put(current)
        columns = batch + (earlier if memory is not None else [])
        root = torch.tensor([1.0] * len(batch) + [memory or 0.0] * (len(columns) - len(batch))).double().sqrt()
        for _ in range(passes[0] if passes else 1):
            size = gap(columns).norm(dim=0)
            off = ((size > low) & (size < high)).nonzero()[:, 0]
            chosen = [columns[i] for i in off]
            for i, layer in enumerate(layers if chosen else []):
                keys, residual = keys_of(chosen, layer) * root[off], gap(chosen) / (len(layers) - i) * root[off]
                weight = architecture.weight(layer)
                given = (keys, residual, moments[layer], cache[layer], weight.double(), originals[layer].double())
                weight.copy_(weight.double() + solver(*given, **hyper))
        for layer in layers:
            keys = keys_of(batch, layer)
            cache[layer] += keys @ keys.T
        earlier = earlier + batch
    total = {layer: architecture.weight(layer).double() - originals[layer].double() for layer in layers}
    put(originals)
    return total


def memit(K, R, C, cache, W, W0, *, weight):
    return R @ torch.linalg.solve(weight * C + K @ K.T, K).T


def emmet(K, R, C, cache, W, W0, *, weight, gamma):
    inverse = torch.linalg.inv(weight * C)
    D = K.T @ inverse @ K + gamma * torch.eye(K.shape[1]).double()
    return R @ torch.linalg.inv(D) @ K.T @ inverse


def alphaedit(K, R, C, cache, W, W0, *, threshold, l2):
    U, S, _ = torch.linalg.svd(C)
    P = U[:, threshold > S] @ U[:, threshold > S].T
    return torch.linalg.solve(P @ (K @ K.T + cache) + l2 * torch.eye(len(C)).double(), P @ K @ R.T).T


def evoedit(K, R, C, cache, W, W0, *, threshold, l2):
    """AlphaEdit's projector without what the earlier keys span in it."""
    U, S, _ = torch.linalg.svd(C)
    P = U[:, threshold > S] @ U[:, threshold > S].T
    S, V = torch.linalg.eigh(P @ cache @ P)
    taken = V[:, 1e-10 * cache.trace().clamp(min=1e-300) < S]
    P = P - taken @ taken.T
    return R @ torch.linalg.solve(K.T @ P @ K + l2 * torch.eye(K.shape[1]).double(), K.T @ P)


def encore(K, R, C, cache, W, W0, *, weight, norm):
    return R @ torch.linalg.solve(weight * C + cache + K @ K.T + norm * torch.eye(len(C)).double(), K).T


def rect(K, R, C, cache, W, W0, *, weight, share):
    update = memit(K, R, C, cache, W, W0, weight=weight)
    importance = (update / (W + 1e-8)).abs()
    threshold = importance.flatten().kthvalue(int(importance.numel() * (100 - 100 * share) / 100)).values
    return update * (importance >= threshold)


def prune(K, R, C, cache, W, W0, *, weight):
    total = W - W0 + memit(K, R, C, cache, W, W0, weight=weight)
    U, S, V = torch.linalg.svd(total, full_matrices=False)
    top = torch.linalg.svdvals(W0)[0]
    S = torch.where(top < S, S.log() - top.log() + top, S)
    return W0 + U @ torch.diag(S) @ V - W


def prune_published(W, W0):
    """The published script, once after the last batch: the restrained total on top of the edited weight."""
    U, S, V = torch.linalg.svd(W - W0, full_matrices=False)
    top = torch.linalg.svdvals(W0)[0]
    return U @ torch.diag(torch.where(top < S, S.log() - top.log() + top, S)) @ V


def nse(K, R, C, cache, W, W0, *, weight, share):
    """MEMIT with cache on the neurons whose sorted summed |key| stays within the share."""
    scores, order = torch.sort(K.abs().sum(1), descending=True)
    chosen = order[: max(1, int((scores.cumsum(0) <= share * scores.sum()).sum()))]
    update = torch.zeros_like(W)
    block = weight * C[chosen][:, chosen] + cache[chosen][:, chosen] + K[chosen] @ K[chosen].T
    update[:, chosen] = R @ torch.linalg.solve(block, K[chosen]).T
    return update


def rome(model, request, layer, moment, contexts, **target_options):
    """ROME's rank-one update: left vector C^-1 k (normalised), right vector (target - W k) / (k . u)."""
    flat = (tuple(c for g in contexts for c in g),)
    u = key(model, request, layer, flat).double()
    if moment is not None:
        u = torch.linalg.inv(moment) @ u
    u = u / u.norm()
    z = target(model, request, layer, contexts, site="mlp", **target_options)[0].double()
    k, mlp, _ = prompt_states(model, request, layer, request.prompt)
    return torch.outer((z - mlp.double()) / (k.double() @ u), u)


def r_rome(model, request, layer, moment, contexts, **target_options):
    """ROME with one key throughout: the averaged key also below the line, and the averaged current output."""
    flat = (tuple(c for g in contexts for c in g),)
    k = key(model, request, layer, flat).double()
    u = k if moment is None else torch.linalg.inv(moment) @ k
    u = u / u.norm()
    z = target(model, request, layer, contexts, site="mlp", **target_options)[0].double()
    templates = [c.replace("{}", request.prompt, 1) for c in flat[0]]
    now = torch.stack([prompt_states(model, request, layer, t)[1] for t in templates]).mean(0)
    return torch.outer((z - now.double()) / (k @ u), u)


def fine_tune(model, requests, layers, *, steps, lr, radius=None, stop=0.01):
    """Adam on the mean NLL of the new objects over the projections' weights; the change by layer; model restored."""
    architecture = Architecture(model)
    tokenizer = model.tokenizer
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    parameters = {layer: architecture.projection(layer).weight.requires_grad_(True) for layer in layers}
    originals = {layer: p.detach().clone() for layer, p in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=lr)
    for _ in range(steps):
        losses = []
        for r in requests:
            goal = completion(tokenizer, r.rewrite_prompt, r.target_new)
            prompt = tokenizer(r.rewrite_prompt).input_ids
            logits = model(input_ids=torch.tensor([prompt + goal[:-1]])).logits[0, len(prompt) - 1 :]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(goal)))
        loss = torch.stack(losses).mean()
        if loss < stop:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for layer, p in parameters.items():
                if radius is not None:
                    p.copy_(torch.minimum(torch.maximum(p, originals[layer] - radius), originals[layer] + radius))
    change = {layer: architecture.weight(layer).detach().clone() for layer in layers}
    with torch.no_grad():
        for layer, p in parameters.items():
            p.copy_(originals[layer])
            p.requires_grad_(False)
    return {layer: change[layer].double() - architecture.weight(layer).double() for layer in layers}
