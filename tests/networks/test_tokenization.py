"""Spaces as three kinds of tokenizers want them, the subject's last token by offsets, padding."""

from __future__ import annotations

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_requests, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from editlab.errors import DataError, ModelError
from editlab.networks.tokenization import Encoder, Spacing, check_lengths, pad

_TEXT = "The mother tongue of the man is They live in She plays the French London piano red house Anna Abel was"
WORDS = _TEXT.split()


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As Llama 2's: a mark is put before the text and in place of every space, so a leading space would be doubled."""
    vocabulary = {"<unk>": 0, "▁": 1, **{f"▁{w}": i + 2 for i, w in enumerate(dict.fromkeys(WORDS))}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<unk>")


def metaspace() -> PreTrainedTokenizerFast:
    """A mark before every word, the first too; a leading space changes nothing."""
    vocabulary = {"<unk>": 0, **{f"▁{w}": i + 1 for i, w in enumerate(dict.fromkeys(WORDS))}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<unk>")


def trailing_space() -> PreTrainedTokenizerFast:
    """Every word carries the space that follows it."""
    vocabulary = {"<unk>": 0}
    for word in WORDS:
        vocabulary.setdefault(f"{word} ", len(vocabulary))
        vocabulary.setdefault(word, len(vocabulary))
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([])
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<unk>")


TOKENIZERS = {
    "leading": (tiny_tokenizer, Spacing("", " ")),
    "leading with BOS": (lambda: tiny_tokenizer(bos=True), Spacing("", " ")),
    "self-added": (sentencepiece_like, Spacing("", "")),
    "indifferent": (metaspace, Spacing("", " ")),
    "trailing": (trailing_space, Spacing(" ", "")),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_space_goes_where_the_tokenizer_wants_it(kind):
    make, expected = TOKENIZERS[kind]
    tokenizer = make()
    assert Spacing.probe(tokenizer) == expected
    encoder = Encoder(tokenizer)
    for prompt, target in (("They live in", "London"), ("She plays the", "red house")):
        joined = tokenizer(f"{prompt} {target}").input_ids
        assert encoder.prompts([prompt])[0] + encoder.targets([target])[0] == joined
        assert encoder.targets([f" {target}"]) == encoder.targets([target])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_lookup_is_the_last_token_of_the_subject(kind):
    tokenizer = TOKENIZERS[kind][0]()
    ids, positions = Encoder(tokenizer).lookups(["{} was in the house", "The house is {}"], ["Anna Abel"] * 2)
    pieces = [tokenizer.convert_ids_to_tokens(row[: at + 1]) for row, at in zip(ids, positions, strict=True)]
    for row, at in zip(ids, positions, strict=True):
        text = tokenizer.decode(row[: at + 1], skip_special_tokens=True).strip()
        assert text.endswith("Abel"), pieces
        following = tokenizer.decode(row[: at + 2], skip_special_tokens=True).strip()
        assert at == len(row) - 1 or not following.endswith("Abel")


def test_a_subject_that_occurs_twice_is_found_where_the_template_put_it():
    encoder = Encoder(tiny_tokenizer())
    for request in reference.odd_requests():
        (row,), (at,) = encoder.lookups([request.prompt], [request.subject])
        before = request.prompt[: request.prompt.index("{}")] + request.subject
        assert encoder.tokenizer.decode(row[: at + 1]) == before


@given(st.text(min_size=1, max_size=12).filter(str.strip), st.text(max_size=10), st.text(max_size=10))
@settings(deadline=None, max_examples=150)
def test_any_subject_is_found(subject, before, after):
    """Up to the look-up position the tokens hold the whole subject, and without that position they do not."""
    before, after = (t.replace("{", "").replace("}", "") for t in (before, after))
    encoder = Encoder(tiny_tokenizer())
    (row,), (at,) = encoder.lookups([f"{before}{{}}{after}"], [subject])
    offsets = encoder.tokenizer(f"{before}{subject}{after}", return_offsets_mapping=True).offset_mapping
    assert len(offsets) == len(row)
    end = len(before) + len(subject.rstrip())
    assert offsets[at][1] >= end
    assert all(a >= end for a, _ in offsets[at + 1 :])


def test_targets_without_tokens_are_an_error():
    for make in (sentencepiece_like, tiny_tokenizer):
        with pytest.raises(DataError, match="target ' ' has no tokens"):
            Encoder(make()).targets(["Paris", " "])
    encoder = Encoder(tiny_tokenizer())
    assert encoder.targets([]) == []
    assert encoder.prompts([]) == []


def test_prompts_carry_special_tokens_and_targets_do_not():
    encoder = Encoder(tiny_tokenizer(bos=True))
    bos = encoder.tokenizer.bos_token_id
    assert all(row[0] == bos for row in encoder.prompts(["A man", "Paris"]))
    assert all(bos not in row for row in encoder.targets(["Paris", "New York"]))


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(deadline=None)
def test_padding_is_on_the_right(rows):
    ids, mask = pad(rows, 0)
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert [ids[i, mask[i].bool()].tolist() for i in range(len(rows))] == rows
    assert mask.sum(1).tolist() == [len(r) for r in rows]
    assert all(torch.equal(m, m.sort(descending=True).values) for m in mask)


def test_lengths_against_the_model():
    model = tiny_model("gpt2")
    check_lengths([[1] * 128], model)
    check_lengths([], model)
    with pytest.raises(ModelError, match="129 tokens"):
        check_lengths([[1] * 129], model)
    assert len(tiny_requests(3)) == 3
