"""Neutral text: well-formed, seeded, disjoint from the facts; and text files read as paragraphs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from editlab.data import make_facts, neutral_sentences, read_text
from editlab.data.neutral import _GRAMMAR, _parse
from editlab.data.world import RELATIONS
from editlab.errors import ConfigError, DataError


def test_neutral_sentences_are_seeded_varied_and_well_formed() -> None:
    sentences = neutral_sentences(3000, seed=0)
    assert sentences == neutral_sentences(3000, seed=0)
    assert sentences[:10] == neutral_sentences(10, seed=0)
    assert len(set(sentences)) > 0.99 * len(sentences)
    assert len(set(" ".join(sentences).lower().split())) > 600
    for sentence in sentences:
        assert 8 <= len(sentence.split()) <= 25
        assert re.fullmatch(r"[A-Z][a-z, A-Z-]+\.", sentence), sentence
        assert "  " not in sentence
        assert not re.search(r"\b[Aa] [aeiou]", sentence)


def test_another_seed_is_held_out_text() -> None:
    train, heldout = set(neutral_sentences(10_000, seed=0)), neutral_sentences(1000, seed=1)
    assert sum(sentence in train for sentence in heldout) < 0.01 * len(heldout)


def test_neutral_text_names_nobody_and_no_place_of_the_world_of_facts() -> None:
    text = " ".join(neutral_sentences(5000, seed=2))
    proper = {item for r in RELATIONS for item in r.objects if item[0].isupper()}
    named = {item for item in proper if re.search(rf"\b{re.escape(item)}\b", text)}
    named |= {fact.subject for fact in make_facts(2000, seed=0) if fact.subject in text}
    assert not named


def test_the_grammar_is_closed() -> None:
    rules = _parse(_GRAMMAR)
    used = {symbol for texts in rules.values() for text in texts for symbol in re.findall(r"<(\w+)>", text)}
    assert used == set(rules) - {"sentence"}
    defined = re.findall(r"^(\w+):", _GRAMMAR, flags=re.MULTILINE)
    assert len(defined) == len(set(defined))


def test_no_sentences_and_a_negative_number() -> None:
    assert neutral_sentences(0, seed=0) == []
    with pytest.raises(ConfigError, match="count: -2"):
        neutral_sentences(-2, seed=0)


def test_read_text_skips_headings(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(" \n = Title = \n\n First one . \r\n = = Part = = \n Second é line . \n", encoding="utf-8")
    assert read_text(path) == ["First one .", "Second é line ."]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\xe9t\xe9", "not UTF-8"), (b" = Title = \n", "no paragraph"), (b"a\0b", "NUL bytes")],
)
def test_read_text_refuses_what_is_not_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"text\.txt: .*{message}"):
        read_text(path)


def test_real_text_is_read_as_paragraphs(shared_data: Path) -> None:
    path = shared_data / "text" / "wikitext2_valid.txt"
    paragraphs = read_text(path)
    assert len(paragraphs) > 1000
    assert not [p for p in paragraphs if p.startswith("=") or not p.strip()]
