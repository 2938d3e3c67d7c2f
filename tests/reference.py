"""The published algorithms, one fact at a time, the whole model at every step, straight from the equations.

Slow on purpose: nothing is batched, cached or cut. The library must give the same numbers.
"""

from __future__ import annotations

import torch

from editlab.architectures import Architecture
from editlab.hooks import capture, replace_outputs
from editlab.tokenization import Spacing


def _ids(tokenizer, text):
    return torch.tensor([tokenizer(text).input_ids])


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


def target(model, request, layer, contexts, *, steps, lr, clamp, weight_decay, kl_factor, site="block", stop=0.05):
    """MEMIT's compute_z (site 'block') and ROME's compute_v up to the target (site 'mlp').

    Returns z, number of updates, loss of the returned z.
    """
    architecture = Architecture(model)
    tokenizer, spacing = model.tokenizer, Spacing.probe(model.tokenizer)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    target_ids = tokenizer(spacing.target_prefix + request.target_new, add_special_tokens=False).input_ids
    templates = [c.replace("{}", request.prompt, 1) for group in contexts for c in group]
    texts = [(t.replace("{}", request.subject, 1), lookup(tokenizer, t, request.subject)) for t in templates]
    kl_text, kl_at = f"{request.subject} is a", lookup(tokenizer, "{} is a", request.subject)
    module = architecture.mlp(layer) if site == "mlp" else architecture.block(layer)
    base = value(model, request, layer, site)
    delta = torch.zeros_like(base, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=lr)
    before = None

    def shifted(position):
        def add(hidden):
            hidden = hidden.clone()
            hidden[:, position] = hidden[:, position] + delta
            return hidden

        return replace_outputs({module: add})

    for step in range(steps):
        optimizer.zero_grad()
        losses = []
        for text, position in texts:
            prompt = tokenizer(text).input_ids
            ids = torch.tensor([prompt + target_ids[:-1]])
            with shifted(position):
                logits = model(input_ids=ids).logits[0]
            log_probs = torch.log_softmax(logits, -1)[len(prompt) - 1 :]
            picked = log_probs[torch.arange(len(target_ids)), torch.tensor(target_ids)]
            losses.append(-picked.sum() / len(target_ids))
        loss = torch.stack(losses).mean()
        if kl_factor:
            with shifted(kl_at):
                now = torch.log_softmax(model(input_ids=_ids(tokenizer, kl_text)).logits[0, kl_at], -1)
            before = now.detach().clone() if before is None else before
            loss = loss + kl_factor * torch.nn.functional.kl_div(before, now, log_target=True, reduction="sum")
        loss = loss + weight_decay * torch.norm(delta) / torch.norm(base) ** 2
        if loss < stop or step == steps - 1:
            break
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            limit = clamp * base.norm()
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return (base + delta).detach(), step, float(loss)


def edit_sequence(model, batches, layers, moments, contexts, solver, *, hyper, **target_options):
    """Edit batch after batch in place, MEMIT's way; returns {layer: total change} and restores the model.

    ``solver(K, R, C, cache, weight, original) -> dW``; all float64.
    """
    architecture = Architecture(model)
    originals = {layer: architecture.weight(layer).clone() for layer in layers}
    cache = {layer: torch.zeros(originals[layer].shape[1], originals[layer].shape[1]).double() for layer in layers}
    total = {layer: torch.zeros_like(originals[layer]).double() for layer in layers}
    for batch in batches:
        z = torch.stack([target(model, r, layers[-1], contexts, **target_options)[0] for r in batch], 1).double()
        for i, layer in enumerate(layers):
            keys = torch.stack([key(model, r, layer, contexts) for r in batch], 1).double()
            now = torch.stack([value(model, r, layers[-1]) for r in batch], 1).double()
            residual = (z - now) / (len(layers) - i)
            weight = architecture.weight(layer)
            update = solver(
                keys, residual, moments[layer], cache[layer], weight.double(), originals[layer].double(), **hyper
            )
            total[layer] += update
            weight.copy_(weight.double() + update)
        for layer in layers:
            keys = torch.stack([key(model, r, layer, contexts) for r in batch], 1).double()
            cache[layer] += keys @ keys.T
    for layer in layers:
        architecture.weight(layer).copy_(originals[layer])
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


def encore(K, R, C, cache, W, W0, *, weight, norm):
    return R @ torch.linalg.solve(weight * C + cache + K @ K.T + norm * torch.eye(len(C)).double(), K).T


def rect(K, R, C, cache, W, W0, *, weight, share):
    update = memit(K, R, C, cache, W, W0, weight=weight)
    importance = (update / W).abs().flatten()
    kept = importance.argsort(descending=True)[: round(share * importance.numel())]
    mask = torch.zeros_like(importance)
    mask[kept] = 1
    return update * mask.view_as(update)


def prune(K, R, C, cache, W, W0, *, weight):
    total = W - W0 + memit(K, R, C, cache, W, W0, weight=weight)
    U, S, V = torch.linalg.svd(total, full_matrices=False)
    top = torch.linalg.svdvals(W0)[0]
    S = torch.where(S > top, S.log() - top.log() + top, S)
    return W0 + U @ torch.diag(S) @ V - W


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
