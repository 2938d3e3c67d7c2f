"""The table of tried files in docs/data_formats.md is what reading them gives; real files lose nothing in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tried import PAGE, made_up, real, table

from editlab.data.forms import read_dataset
from editlab.errors import DataError
from editlab.networks.architectures import FAMILIES

NAMES = {
    "gpt2": "GPT-2", "gptj": "GPT-J", "gpt_neox": "GPT-NeoX", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_table_has_every_form(page: str) -> None:
    rows = table(page)
    for row in made_up():
        assert row in rows, f"docs/data_formats.md is out of date: python tests/data/tried.py ({row})"


def test_the_table_has_every_real_file(page: str, shared_data: Path) -> None:
    rows = table(page)
    for row in real(shared_data):
        assert row in rows, f"docs/data_formats.md is out of date: python tests/data/tried.py ({row})"


def test_the_page_names_the_families_that_are_edited(page: str) -> None:
    assert set(FAMILIES) - {"vit"} == set(NAMES)
    assert f"| {', '.join(NAMES.values())} | edited" in page


@pytest.mark.parametrize("name", ["counterfact_500.json", "counterfact_rebuilt.json", "zsre_mend_train-1k.json"])
def test_nothing_of_a_real_file_is_lost(shared_data: Path, name: str) -> None:
    """Every text of every record is somewhere in what became of it."""
    (path,) = shared_data.rglob(name)
    data, records = read_dataset(path), json.loads(path.read_text(encoding="utf-8"))
    assert data.account["records"] == data.account["requests"] == len(records)
    assert data.account["left_out"] == {}
    for record, request in zip(records, data.requests, strict=True):
        kept = json.dumps([request.to_record(), request.rewrite_prompt], ensure_ascii=False)
        for text in texts(record):
            assert json.dumps(text.strip(), ensure_ascii=False)[1:-1] in kept


def texts(value: object) -> list[str]:
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_every_real_file_is_read_or_refused_in_one_line(shared_data: Path) -> None:
    read = {"counterfact_500.json", "counterfact_rebuilt.json", "zsre_mend_train-1k.json"}
    for path in sorted(p for p in shared_data.rglob("*") if p.is_file() and p.name not in read):
        with pytest.raises(DataError) as caught:
            read_dataset(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
