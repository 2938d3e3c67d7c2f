"""Train a small Llama that follows descriptions of tasks, and must guess where there is none.

Part of each step are examples after a description, part are bare: there the task is drawn at random, so that without a
description the model can but guess. What a LoRA teacher has to install later is exactly one task, without its description.
The loss sits on the answers alone. Muon moves the matrices, AdamW the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from editlab.config.adapters import TrainedBase
from editlab.data.letter_tasks import END, PAD, vocabulary
from editlab.data.tasks import TextTask
from editlab.networks.answers import Pair, answer_loss, encode
from editlab.networks.architectures import Architecture
from editlab.randomness import derive_seed, python_rng
from editlab.training.schedule import trapezoid

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 64


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or letter of the universe."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token=END))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=END, eos_token=END, unk_token=END, model_max_length=CONTEXT
    )


def new_base(options: TrainedBase, seed: int) -> PreTrainedModel:
    """An untrained model with its tokenizer as ``model.tokenizer``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        hidden_size=options.width,
        intermediate_size=options.inner,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("adapters", "base", seed))
        model = LlamaForCausalLM(config)
    model.tokenizer = tokenizer  # type: ignore[assignment]
    return model


def train_base(
    tasks: list[TextTask], options: TrainedBase, seed: int, *, progress: bool = True
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train on these tasks alone (``strict``: without those that are held out).

    Returns:
        The model in evaluation mode and its log: rows of step, loss with a description, loss without.
    """
    from tqdm import trange

    model = new_base(options, seed).train()
    tokenizer = model.tokenizer
    optimizers = _optimizers(model, options)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    rng = python_rng("adapters", "base examples", seed)
    log: list[dict[str, float]] = []
    for step in trange(options.steps, desc="base", unit="step", disable=None if progress else True):
        factor = trapezoid(step, options.steps, options.warmup, options.decay)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.zero_grad()
        losses = {"loss": torch.zeros(()), "bare_loss": torch.zeros(())}
        for name, count in (("loss", options.batch), ("bare_loss", options.bare)):
            if count:
                pairs = _examples(tasks, count, rng, described=name == "loss")
                losses[name] = answer_loss(model, encode(tokenizer, pairs)).sum() / (options.batch + options.bare)
        sum(losses.values(), start=torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % max(1, options.steps // 20) == 0:
            log.append({"step": step + 1, **{k: float(v.detach()) for k, v in losses.items()}})
    return model.eval(), log


def _examples(tasks: list[TextTask], count: int, rng: Any, *, described: bool) -> list[Pair]:
    pairs: list[Pair] = []
    for _ in range(count):
        task = rng.choice(tasks)
        drawn = task.draw(1, rng, "train")
        pairs += task.asked(drawn, rng.choice(task.descriptions)) if described else drawn
    return pairs


def _optimizers(model: Any, options: TrainedBase) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    inside = {id(p) for block in Architecture(model).blocks for p in block.parameters() if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in inside]
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, options.lr, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, options.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
