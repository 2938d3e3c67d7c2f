"""Rows of the running text for tokenizers of every kind; the subject's last token by offsets; padding."""

from __future__ import annotations

import unicodedata

import pytest
import reference
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_requests, tiny_tokenizer
from transformers import AutoTokenizer
from zoo import TOKENIZERS, WORDS, across_words, byte_level, tokenizer, word_piece

from editlab.errors import DataError, ModelError
from editlab.networks.tokenization import Encoder, check_lengths, pad

known = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
BYTE_LEVEL = [kind for kind in TOKENIZERS if kind.startswith("byte-level")]


def running_text(tokens, text: str) -> list[int]:
    """Ids of the text as one, without a token that the tokenizer puts after every text."""
    ids, ends = tokens(text).input_ids, tokens("").input_ids
    return ids[:-1] if len(ends) > 1 else ids


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(prompt=known, target=known, other=known)
@settings(deadline=None, max_examples=40)
def test_a_row_is_the_running_text(kind, prompt, target, other):
    tokens = tokenizer(kind)
    row, again, rival = Encoder(tokens).pairs([prompt] * 3, [target, f" {target} ", other])
    assert row == again
    assert row.prompt + row.target == running_text(tokens, f"{prompt} {target}")
    assert row.prompt == rival.prompt, "what follows a prompt does not change its tokens"
    assert [row.prompt] == Encoder(tokens).prompts([prompt])
    assert all(b <= len(prompt) + 1 for _, b in row.offsets)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(prompt=known, target=known)
@settings(deadline=None, max_examples=40)
def test_the_target_begins_with_its_first_character(kind, prompt, target):
    """No token of the target holds a character of the prompt, and none of the prompt one of the target."""
    tokens = tokenizer(kind)
    text = f"{prompt} {target}"
    (row,) = Encoder(tokens).pairs([prompt], [target])
    encoding = tokens(text).encodings[0]
    spans = [o for o, special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not special]
    real = len(row.prompt) - encoding.special_tokens_mask[: len(row.prompt)].count(1)
    assert all(a >= len(prompt) for a, _ in spans[real:])
    assert all(b <= len(prompt) + 1 for _, b in spans[:real])


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@given(prompt=st.text(max_size=12), target=st.text(min_size=1, max_size=8).filter(lambda t: t.strip()))
@example(prompt="0 ", target="0")
@example(prompt="0 \n", target="0")
@settings(deadline=None, max_examples=60)
def test_byte_level_rows_are_the_prompt_and_the_target_after_a_space(kind, prompt, target):
    """Any Unicode: the rows are those that the published code makes, prompt and `` target`` tokenised apart."""
    tokens = tokenizer(kind)
    if kind.endswith("added tokens") or (kind.endswith("before the text") and not prompt):
        prompt, target = f"x{prompt}x", "piano"
    try:
        (row,) = Encoder(tokens).pairs([prompt], [target])
    except DataError:
        assert "case" in kind or "NF" in kind or not target.strip().isprintable()
        return
    assert row.prompt == tokens(prompt).input_ids
    apart = tokens(f" {target.strip()}", add_special_tokens=False).input_ids
    assert row.target == apart


def test_rows_of_the_real_gpt2_tokenizer_are_those_of_its_parts(shared_data):
    from editlab.data import load_requests

    tokens = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "gpt2")
    requests = load_requests(shared_data / "counterfact" / "counterfact_500.json")
    requests += load_requests(shared_data / "zsre" / "zsre_mend_train-1k.json")
    pairs = [
        (p, t)
        for r in requests
        for p in (r.rewrite_prompt, *r.paraphrase_prompts)
        for t in (r.target_new, r.target_true)
    ]
    pairs += [pair for r in requests for pair in r.neighbors()]
    rows = Encoder(tokens).pairs([p for p, _ in pairs], [t for _, t in pairs])
    assert [r.prompt for r in rows] == tokens([p for p, _ in pairs]).input_ids
    assert [r.target for r in rows] == tokens([f" {t}" for _, t in pairs]).input_ids


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_lookup_is_the_last_token_of_the_subject(kind):
    tokens = tokenizer(kind)
    templates = ["{} was in the house", "The house is {}", "Anna Abel was born in the city of {}"]
    rows, positions = Encoder(tokens).lookups(templates, ["Anna Abel"] * 3)
    targets = Encoder(tokens).lookups(templates, ["Anna Abel"] * 3, ["London"] * 3)
    assert [r.prompt for r in targets[0]] == [r.prompt for r in rows]
    assert targets[1] == positions
    for row, at in zip(rows, positions, strict=True):
        assert tokens.decode(row.prompt[: at + 1]).strip().lower().endswith("abel")
        following = tokens.decode(row.prompt[: at + 2]).strip().lower()
        assert at == len(row.prompt) - 1 or not following.endswith("abel")


def test_a_subject_that_occurs_twice_is_found_where_the_template_put_it():
    encoder = Encoder(tiny_tokenizer())
    for request in reference.odd_requests():
        (row,), (at,) = encoder.lookups([request.prompt], [request.subject])
        before = request.prompt[: request.prompt.index("{}")] + request.subject
        assert encoder.tokenizer.decode(row.prompt[: at + 1]) == before


@given(st.text(min_size=1, max_size=12).filter(str.strip), st.text(max_size=10), st.text(max_size=10))
@settings(deadline=None, max_examples=150)
def test_any_subject_is_found(subject, before, after):
    """Up to the look-up position the tokens hold the whole subject, and without that position they do not."""
    before, after = (t.replace("{", "").replace("}", "") for t in (before, after))
    encoder = Encoder(tiny_tokenizer())
    (row,), (at,) = encoder.lookups([f"{before}{{}}{after}"], [subject])
    offsets = encoder.tokenizer(f"{before}{subject}{after}", return_offsets_mapping=True).offset_mapping
    assert offsets == row.offsets
    end = len(before) + len(subject.rstrip())
    assert offsets[at][1] >= end
    assert all(a >= end for a, _ in offsets[at + 1 :])


def test_a_tokenizer_for_which_no_cut_is_right_is_refused_with_an_example():
    encoder = Encoder(across_words())
    with pytest.raises(
        ModelError, match=r"'in Lo' holds the end of the prompt 'They live in' and the start of 'London'"
    ):
        encoder.check()
    with pytest.raises(ModelError, match=r"tokenizer \w+"):
        encoder.pairs(["They live in"], ["London"])
    assert len(encoder.pairs(["They live at"], ["London"])[0].target) == 6, "the space and five letters"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_other_kind_passes_the_check(kind):
    Encoder(tokenizer(kind)).check()


@pytest.mark.parametrize("kind", ["whole words", "word piece", "unigram, trailing"])
def test_a_target_that_the_tokenizer_cannot_spell_is_refused(kind):
    with pytest.raises(DataError, match=r"'Ωmega' holds characters that are unknown"):
        Encoder(tokenizer(kind)).pairs(["They live in"], ["Ωmega"])


def test_composed_and_decomposed_characters_are_the_same_text_to_a_tokenizer_that_normalises():
    decomposed = unicodedata.normalize("NFD", "Žofie Müller")
    for make in (lambda: byte_level(normalizer=None), word_piece):
        one, other = Encoder(make()).pairs(["The man is"] * 2, ["Žofie Müller", decomposed])
        assert (one.target == other.target) == (make is word_piece)


def test_blank_targets_are_an_error_and_nothing_gives_nothing():
    encoder = Encoder(tiny_tokenizer())
    with pytest.raises(DataError, match="target '' has no tokens"):
        encoder.pairs(["They live in"] * 2, ["Paris", " "])
    assert encoder.pairs([], []) == []
    assert encoder.prompts([]) == []


def test_prompts_carry_special_tokens_and_targets_do_not():
    encoder = Encoder(tiny_tokenizer(bos=True))
    bos = encoder.tokenizer.bos_token_id
    rows = encoder.pairs(["A man", "Paris"], ["Paris", "New York"])
    assert all(row.prompt[0] == bos for row in rows)
    assert all(bos not in row.target for row in rows)
    assert encoder.prompts([""]) == [[bos]]


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
