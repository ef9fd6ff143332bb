"""Tests that the links between the pages of the repository point to files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sdcodec/**/*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_pages_with_links_are_found() -> None:
    assert ROOT / "README.md" in PAGES and ROOT / "docs/format.md" in PAGES
    assert LINK.findall("[a](b.md) ![c](d/e.png) [f](g.md#h)") == ["b.md", "d/e.png", "g.md"]
