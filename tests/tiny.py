"""Tiny random models of the real classes, with a small byte-level BPE tokenizer: all built in code, all seeded.

``from tiny import tiny_model, tiny_requests`` works because pytest puts ``tests/`` on the path. Nothing is downloaded
and no weight is trained, so a model takes a few milliseconds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from second_device import placed
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from editlab.data.requests import EditRequest

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama", "mistral", "qwen2")
END = "<|endoftext|>"
BOS_FAMILIES = ("llama", "mistral")  # their real tokenizers put a BOS before every text
CONTEXT = 128

_CITIES = ("Paris", "London", "Rome", "Madrid", "Oslo", "Cairo", "New York", "Buenos Aires")
_TONGUES = ("French", "English", "Italian", "Spanish", "Norwegian", "Arabic", "Old Norse", "Portuguese")
_JOBS = ("lawyer", "painter", "doctor", "pianist", "farmer", "architect", "chess player", "taxi driver")
_RELATIONS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("P19", "{} was born in", ("The birthplace of {} is", "{} comes from the city of"), _CITIES),
    ("P103", "The mother tongue of {} is", ("{} speaks", "At home, {} speaks the language"), _TONGUES),
    ("P106", "{} works as a", ("The job of {} is that of a", "By profession, {} is a"), _JOBS),
)
_FIRST = ("Anna", "Bruno", "Clara", "Dmitri", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karin")
_LAST = (
    "Abel",
    "Berg",
    "Costa",
    "Dahl",
    "Evans",
    "Fischer",
    "Garcia",
    "Holm",
    "Ivanov",
    "Jansen",
    "Keller",
    "Lopez",
    "Moreau",
)


def tiny_model(
    family: str = "gpt2", seed: int = 0, layers: int = 3, width: int = 32, scale: float = 0.15, **overrides: Any
) -> Any:
    """A random causal language model (float32, evaluation mode) with its tokenizer as ``model.tokenizer``.

    ``width`` hidden units, ``2 * width`` inner ones, 4 heads (2 key/value heads where the family groups them).
    ``scale`` is the standard deviation of the weights: the usual 0.02 would make every prediction uniform.
    ``overrides`` go to the configuration.
    """
    tokenizer = tiny_tokenizer(bos=family in BOS_FAMILIES)
    end = tokenizer.eos_token_id
    extra = {"initializer_range": scale, "bos_token_id": end, "eos_token_id": end, **overrides}
    config = _CONFIGS[family](len(tokenizer), layers, width, extra)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, _CLASSES[family])(config)
        with torch.no_grad():  # biases and norms away from their neutral values, so that forgetting one shows
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.tokenizer = tokenizer
    return placed(model.eval())


def tiny_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with GPT-2's spacing: common short words are one token, names several."""
    core = Tokenizer.from_str(_bpe())
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, core.token_to_id(END))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=CONTEXT
    )


def tiny_requests(n: int, paraphrases: int = 2, neighbors: int = 3) -> list[EditRequest]:
    """``n`` facts (at most 429, all distinct in subject and relation); one- and multi-token targets, targets shared."""
    limit = len(_FIRST) * len(_LAST) * len(_RELATIONS)
    if not 0 <= n <= limit:
        raise ValueError(f"n: {n} is not allowed; 0 to {limit}")
    return [_request(i, paraphrases, neighbors) for i in range(n)]


def _request(i: int, paraphrases: int, neighbors: int) -> EditRequest:
    relation, prompt, templates, objects = _RELATIONS[i % 3]
    true, new = objects[i % 8], objects[(i + 1 + i % 5) % 8]
    others = [_name(i + 3 * (k + 1)) for k in range(neighbors)]
    return EditRequest(
        case_id=str(i),
        prompt=prompt,
        subject=_name(i),
        target_new=new,
        target_true=true,
        relation_id=relation,
        paraphrase_prompts=tuple(templates[k % 2].replace("{}", _name(i)) for k in range(paraphrases)),
        neighborhood_prompts=tuple(prompt.replace("{}", other) for other in others),
        generation_prompts=(f"{_name(i)} is",),
    )


def _name(i: int) -> str:
    """Full names repeat with period 143 = 11 x 13; the relation (i modulo 3) keeps the facts distinct."""
    return f"{_FIRST[i % len(_FIRST)]} {_LAST[i % len(_LAST)]}"


@functools.cache
def _bpe() -> str:
    corpus = [prompt.replace("{}", _name(i)) for i in range(40) for _, p, t, _ in _RELATIONS for prompt in (p, *t)]
    corpus += [f"A {word} and the {word}." for words in (_CITIES, _TONGUES, _JOBS) for word in words[:4]] * 20
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    return json.dumps(json.loads(core.to_str()), sort_keys=True)


def _gpt2(vocabulary: int, layers: int, width: int, extra: dict[str, Any]) -> Any:
    sizes = {
        "vocab_size": vocabulary,
        "n_layer": layers,
        "n_embd": width,
        "n_head": 4,
        "n_inner": 2 * width,
        "n_positions": CONTEXT,
    }
    return transformers.GPT2Config(**{**sizes, **extra})


def _gptj(vocabulary: int, layers: int, width: int, extra: dict[str, Any]) -> Any:
    sizes = {
        "vocab_size": vocabulary,
        "n_layer": layers,
        "n_embd": width,
        "n_head": 4,
        "n_inner": 2 * width,
        "n_positions": CONTEXT,
    }
    return transformers.GPTJConfig(**{"rotary_dim": 4, **sizes, **extra})


def _modern(config: str, **fixed: Any) -> Callable[..., Any]:
    def make(vocabulary: int, layers: int, width: int, extra: dict[str, Any]) -> Any:
        sizes = {
            "vocab_size": vocabulary,
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": 2 * width,
        }
        sizes |= {"num_attention_heads": 4, "max_position_embeddings": CONTEXT}
        return getattr(transformers, config)(**{**sizes, **fixed, **extra})

    return make


_CONFIGS: dict[str, Callable[..., Any]] = {
    "gpt2": _gpt2,
    "gptj": _gptj,
    "gpt_neox": _modern("GPTNeoXConfig"),
    "llama": _modern("LlamaConfig", num_key_value_heads=2),
    "mistral": _modern("MistralConfig", num_key_value_heads=2),
    "qwen2": _modern("Qwen2Config", num_key_value_heads=2),
}
_CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "gptj": "GPTJForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
