"""The study has no interactive page of its own: its figures and sheets tell all of its tables."""

from __future__ import annotations

from editlab.analysis.report.topic import Page

PAGES: tuple[Page, ...] = ()
