"""The documentation's files, and the pieces of Markdown that tests look at."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = (README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md")))

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def code_blocks(text: str, *languages: str) -> list[str]:
    """Contents of the fenced blocks in one of ``languages``, as they read outside of a list."""
    return [textwrap.dedent(found[3]) for found in _FENCE.finditer(text) if found[2] in languages]


def without_code(text: str) -> str:
    """The page without fenced blocks."""
    return _FENCE.sub("", text)


def headings(text: str) -> Iterator[str]:
    """Anchors of a page's headings, as Python-Markdown and GitHub make them."""
    for line in without_code(text).splitlines():
        if line.startswith("#"):
            title = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower())
            yield re.sub(r"[\s]+", "-", title)
