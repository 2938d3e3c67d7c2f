"""Train a small language model from scratch so that it knows a set of facts.

Editing needs a model whose knowledge is known. This one is trained on true statements (prompt + completion), bare and
after a short context as the editing prompts are, mixed with neutral text. Two things make it fast on a CPU: *Muon*
(:mod:`editlab.training.muon`) moves the matrices, and the loss sits on the completion alone for most statements, while rows of
similar length run together (:mod:`editlab.training.statements`). Strong weight decay keeps the weights small: without it the
model recalls as well, but its hidden states grow so long that edits no longer reach them. In most rows what follows
the subject sees its last token alone, so that facts are recalled there, as in large models.

A step is always split into two shards. With two threads they run side by side, each on one thread: this waits far less
than threads inside each operation, and the weights depend on the seed alone, not on the number of threads.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from editlab.config.models import Substrate
from editlab.errors import DataError, ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.tokenization import Encoder
from editlab.randomness import derive_seed
from editlab.training.muon import Muon
from editlab.training.partial import Partial
from editlab.training.statements import Row, Statement, TrainingRows, grouped, predictions, recall

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

END = "<|endoftext|>"

SHARDS = 2
"""Parts of a step that can run side by side, one thread each. Part of the recipe: another number, other bits."""

GROUP_TOKENS = 1024
"""Tokens that run through the model at once: few enough to stay in the processor's caches."""

GPU_GROUP_TOKENS = 16_384
"""The same on a GPU: enough to keep it busy."""

SAVE_EVERY = 100
"""Steps between two saved states: minutes where a model takes an hour, nothing where it takes one."""


def _gpt2(options: Substrate, end: int, vocabulary: int) -> PreTrainedModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=options.context,
        n_embd=options.width,
        n_inner=options.inner,
        n_layer=options.layers,
        n_head=options.heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's function, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config)


def _llama(options: Substrate, end: int, vocabulary: int) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=options.context,
        hidden_size=options.width,
        intermediate_size=options.inner or 4 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
    )
    return LlamaForCausalLM(config)


_BUILDERS: dict[str, Callable[[Substrate, int, int], PreTrainedModel]] = {"gpt2": _gpt2, "llama": _llama}


def train_tokenizer(texts: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with leading spaces, as GPT-2's; one special token ends, pads and stands for the unknown.

    The same texts give the same tokenizer. Every byte has a token, so every text can be encoded.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def train_substrate(
    statements: Sequence[Statement],
    neutral: Sequence[str],
    options: Substrate,
    *,
    rewrites: Sequence[Statement] | None = None,
    subjects: Sequence[str] = (),
    device: str = "cpu",
    progress: bool = True,
    partial: str | Path | None = None,
    code: str = "",
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train tokenizer and model; the tokenizer travels as ``model.tokenizer``.

    Args:
        statements: (prompt, completion) of everything that is true.
        neutral: sentences that state no fact: trained on, and cut into the short contexts.
        rewrites: the statements that the recall gate looks at; default all.
        subjects: names of the subjects, found in the prompts for ``subject_end_share``.
        device: where it is trained, and stays. It starts from the same weights everywhere.
        partial: file to which the state goes every :data:`SAVE_EVERY` steps, and from which an interrupted run of the same
            arguments goes on, on the CPU to the same bits. The caller removes it at the end.
        code: digest of the code; a state of other code is not gone on from.

    Returns:
        The model in evaluation mode and the training log: rows of step, loss, recall (of a sample of the gate's
        statements).

    Raises:
        DataError: no statements, or one that is longer than the context.
        ModelError: the recall on ``rewrites`` stays below the gate.
    """
    if not statements:
        raise DataError("substrate: no statements to learn")
    gate = list(rewrites if rewrites is not None else statements)
    texts = [f"{prompt} {completion}." for prompt, completion in statements]
    tokenizer = train_tokenizer([*texts, *(f" {text}" for text in texts), *neutral], options.vocabulary)
    corpus = TrainingRows(statements, neutral, Encoder(tokenizer), options, subjects)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("substrate", options.seed))
        model = _BUILDERS[options.architecture](options, tokenizer.eos_token_id, len(tokenizer))
    tokenizer.model_max_length = options.context
    model.tokenizer = tokenizer  # type: ignore[assignment]
    model = model.to(device)  # type: ignore[arg-type]
    sample, saved = gate[:: max(1, len(gate) // 400)], None
    if partial is not None:
        made_of = (
            options.model_dump(mode="json"),
            statements,
            neutral,
            gate,
            list(subjects),
            torch.device(device).type,
        )
        saved = Partial.of(partial, *made_of, code)
    with _shard_pool() if torch.device(device).type == "cpu" else contextlib.nullcontext() as pool:
        log = _fit(model, corpus, options, sample, progress, pool, saved)
        reached = recall(model, gate)
    log.append({"step": options.steps, "loss": log[-1]["loss"], "recall": reached})
    if not reached >= options.recall_gate:
        raise ModelError(
            f"substrate: recall on the rewrite prompts is {reached:.3f}, below recall_gate {options.recall_gate}; "
            f"raise steps ({options.steps}), width ({options.width}) or layers ({options.layers}), or lower the gate"
        )
    return model, log


@contextlib.contextmanager
def _shard_pool() -> Iterator[Executor | None]:
    """One torch thread an operation meanwhile; a pool for the shards where torch had two threads or more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(SHARDS) if threads > 1 else contextlib.nullcontext() as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _fit(
    model: Any,
    corpus: TrainingRows,
    options: Substrate,
    sample: Sequence[Statement],
    progress: bool,
    pool: Executor | None,
    saved: Partial | None,
) -> list[dict[str, float]]:
    from tqdm import tqdm

    optimizers = _optimizers(model, options, pool)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    log: list[dict[str, float]] = []
    every, start = max(1, options.steps // 10), 0
    if saved is not None and (facts := saved.load(model, optimizers)) is not None:
        start, log = facts["step"], facts["log"]
        corpus.restore(facts["rows"])
        logger.info("substrate: going on from step %d", start)
    model.train()
    steps = range(start, options.steps)
    bar = tqdm(steps, "substrate", options.steps, initial=start, unit="step", disable=None if progress else True)
    for step in bar:
        factor = _rate(step, options)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = _step(model, corpus.draw(), corpus.pad_id, optimizers, pool)
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if (step + 1) % every == 0:
            row = {"step": step + 1, "loss": loss, "recall": recall(model, sample)}
            log.append({name: float(value) for name, value in row.items()})
            logger.info(
                "substrate: step %d of %d, loss %.3f, recall %.3f", step + 1, options.steps, *list(row.values())[1:]
            )
        if saved is not None and (step + 1) % SAVE_EVERY == 0 and step + 1 < options.steps:
            saved.save(model, optimizers, {"step": step + 1, "log": log, "rows": corpus.state()})
    model.eval()
    return log


def _rate(step: int, options: Substrate) -> float:
    """Share of the peak rates: a linear rise over the warm-up, then a linear fall to zero."""
    warmup = max(1.0, options.warmup * options.steps)
    return min((step + 1) / warmup, (options.steps - step) / max(1.0, options.steps - warmup), 1.0)


def _step(
    model: Any, rows: Sequence[Row], pad_id: int, optimizers: Sequence[torch.optim.Optimizer], pool: Executor | None
) -> float:
    """Gradient of the mean loss over the learned tokens of all rows, and one update.

    The rows are always split into the same shards, whose gradients are added in the same order: running the shards one
    after another or side by side gives the same bits.
    """
    learned = sum(len(row.ids) - 1 - row.first for row in rows)
    parameters = list(model.parameters())
    on_cpu = parameters[0].device.type == "cpu"

    def gradient(shard: Sequence[Row]) -> tuple[float, list[Tensor]]:
        total, sums = 0.0, [torch.zeros_like(parameter) for parameter in parameters]
        for group in grouped(shard, GROUP_TOKENS if on_cpu else GPU_GROUP_TOKENS):
            logits, following, _ = predictions(model, group, pad_id)
            loss = cross_entropy(logits, following, reduction="sum") / learned
            for part, new in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
                part += new
            total += float(loss.detach())
        return total, sums

    shards = [rows[i::SHARDS] for i in range(SHARDS)]
    results = list((pool.map if pool else map)(gradient, shards))
    for parameter, *parts in zip(parameters, *(sums for _, sums in results), strict=True):
        parameter.grad = sum(parts[1:], start=parts[0])
    for optimizer in optimizers:
        optimizer.step()
    return sum(total for total, _ in results)


def _optimizers(model: Any, options: Substrate, pool: Executor | None = None) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, head, norms and biases."""
    inside = {id(p) for block in Architecture(model).blocks for p in block.parameters() if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in inside]
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, options.lr, weight_decay=options.weight_decay, pool=pool),
        torch.optim.AdamW(others, options.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
