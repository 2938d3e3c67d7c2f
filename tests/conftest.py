"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small matrices and several test processes: more threads only get into each other's way."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data files that are not part of the repository; tests that need it are skipped without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDITLAB_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder} (set EDITLAB_TEST_DATA)")
    return folder
