"""Tokenizers of every kind that a test can build, trained on one small text: ``from zoo import TOKENIZERS, tokenizer``.

Byte-level BPE as GPT-2's, SentencePiece's Unigram and BPE with spaces that lead, are added before a text, trail, or both
(as in TinyStories-656K), WordPiece with and without case, words alone; with and without BOS, with added tokens, with
NFC, NFD and lower-case normalisers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCE = (
    "The mother tongue of the man is They live in She plays the French London piano red house Anna Abel was born city "
    "a harp Zürich Žofie Müller speaks Old Norse New York Buenos Aires café naïve 東京 здесь it's O'Brien - 1984"
)
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[i:] + WORDS[:i]) + "." for i in range(0, len(WORDS), 3)] * 4
CHARACTERS = sorted({c for text in TEXTS for c in text} | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
SPECIAL = ["<unk>", "<s>", "</s>"]


def _finished(core: Tokenizer, bos: bool = False, eos: bool = False) -> PreTrainedTokenizerFast:
    if bos or eos:
        single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
        ids = [(token, core.token_to_id(token)) for token in ("<s>", "</s>")]
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def byte_level(
    *, bos: bool = False, prefix: bool = False, trim: bool | None = None, added: bool = False, normalizer: object = None
) -> PreTrainedTokenizerFast:
    """GPT-2's kind; ``prefix`` adds a space before a text, ``trim`` leaves spaces out of the offsets."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    if trim is not None:
        core.post_processor = processors.ByteLevel(trim_offsets=trim)
    if added:
        core.add_tokens([AddedToken("London", lstrip=True), AddedToken("Abel", single_word=True), AddedToken(" red ")])
    return _finished(core, bos)


def llama_2(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """SentencePiece BPE as transformers converts it: a mark before the text and for every space, bytes as fallback."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    everything = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=560, special_tokens=everything, show_progress=False))
    core.pre_tokenizer = None  # the merges cross no mark, because none was seen in training
    return _finished(core, bos)


def unigram(*, trailing: bool = False, prepend: bool = True, bos: bool = False) -> PreTrainedTokenizerFast:
    """SentencePiece Unigram; ``trailing``: its pieces end in a space, with a mark before the text or not."""
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -6.0)]
    for i, word in enumerate(dict.fromkeys(WORDS)):
        forms = [f"{word}▁", word] if trailing else [f"▁{word}", word]
        vocabulary += [(form, -4.0 - 0.01 * i - k) for k, form in enumerate(forms)]
    vocabulary += [(c, -9.0) for c in CHARACTERS if c not in (" ", "▁")]
    core = Tokenizer(models.Unigram(list(dict(vocabulary).items()), unk_id=0, byte_fallback=False))
    steps = [normalizers.Prepend("▁")] if prepend else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return _finished(core, bos)


def metaspace(scheme: str = "always") -> PreTrainedTokenizerFast:
    """Words behind a mark, put before the first word too (``always``) or not (``never``)."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=CHARACTERS, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return _finished(core)


def word_piece(*, lower: bool = True) -> PreTrainedTokenizerFast:
    """BERT's kind: no spaces at all, ``##`` inside words, a token before and one after the text."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lower)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=CHARACTERS, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return _finished(core, bos=True, eos=True)


def whole_words() -> PreTrainedTokenizerFast:
    """A token a word, with the space that follows it where one does."""
    vocabulary = {
        token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(f for w in WORDS for f in (w, f"{w} "))])
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return _finished(core)


def across_words() -> PreTrainedTokenizerFast:
    """Merges that cross the words: ``in London`` is one token, so that no cut is right."""
    tokens = [*SPECIAL, *CHARACTERS, "in", "Lo", "in Lo"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [("i", "n"), ("L", "o"), ("in", " "), ("in ", "Lo")]
    vocabulary.setdefault("in ", len(vocabulary))
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    return _finished(core)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "byte-level, offsets without spaces": lambda: byte_level(trim=True),
    "byte-level, BOS": lambda: byte_level(bos=True),
    "byte-level, a space before the text": lambda: byte_level(prefix=True),
    "byte-level, added tokens": lambda: byte_level(added=True),
    "byte-level, NFC": lambda: byte_level(normalizer=normalizers.NFC()),
    "byte-level, NFD": lambda: byte_level(normalizer=normalizers.NFD()),
    "byte-level, lower case": lambda: byte_level(normalizer=normalizers.Lowercase()),
    "llama 2": llama_2,
    "llama 2, no BOS": lambda: llama_2(bos=False),
    "unigram, leading": unigram,
    "unigram, leading, BOS": lambda: unigram(bos=True),
    "unigram, leading, nothing before the text": lambda: unigram(prepend=False),
    "unigram, trailing": lambda: unigram(trailing=True, prepend=False),
    "unigram, trailing and one before the text": lambda: unigram(trailing=True, prepend=True),
    "unigram, trailing and one before the text, BOS": lambda: unigram(trailing=True, prepend=True, bos=True),
    "metaspace": metaspace,
    "metaspace, not before the text": lambda: metaspace("never"),
    "word piece": word_piece,
    "word piece, with case": lambda: word_piece(lower=False),
    "whole words": whole_words,
}


@functools.cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of one of :data:`TOKENIZERS`, built once."""
    return TOKENIZERS[kind]()
