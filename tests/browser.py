"""A page in a headless Chromium that counts what must not happen: errors, dialogs, requests to the network."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Path of a browser; skips the test where there is none."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium installed (Debian: apt-get install chromium)")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """(page, complaints) of a local file; complaints grow with every error, dialog and request to the network."""
    executable = chromium()
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 950}, accept_downloads=True)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda said: complaints.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("request", lambda sent: None if _local(sent.url) else complaints.append(f"request: {sent.url[:100]}"))

        def dismiss(dialog: Any) -> None:
            complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.set_default_timeout(60_000)  # a busy machine draws slowly
        try:
            page.goto(path.resolve().as_uri())
            yield page, complaints
        finally:
            browser.close()


def _local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:", "about:"))
