"""Links, lengths, make targets and generated sections of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import PAGES, README, REPOSITORY, code_blocks, headings, name_of, text_of, without_code
from tests.tools.loading import load_tool

MOST_README_LINES = 150
MOST_COLUMNS = 120


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load_tool("generate_docs")


def links(page: Path) -> list[str]:
    """Targets of a page's links to files and headings."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page)))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in links(page):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in headings(text_of(path))):
            broken.append(target)
    assert broken == []


def test_links_are_found() -> None:
    assert len(links(README)) >= 10


def test_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= MOST_README_LINES


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=name_of)
def test_prose_lines_are_short(page: Path) -> None:
    text = re.sub(r"<!-- generated: .*?<!-- end of [a-z -]+ -->", "", text_of(page), flags=re.DOTALL)
    prose = [line for line in without_code(text).splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > MOST_COLUMNS] == []


def test_make_targets_exist() -> None:
    makefile = text_of(REPOSITORY / "Makefile")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = set(re.findall(r"^# make ([a-z-]+)|  make ([a-z-]+)  ", makefile, re.MULTILINE))
    mentioned = {name for pair in named for name in pair if name}
    for page in PAGES:
        text = text_of(page)
        mentioned |= set(re.findall(r"`make ([a-z-]+)`", text))
        for block in code_blocks(text, "bash", "console"):
            mentioned |= set(re.findall(r"(?:^|[;#$] ?)make ([a-z-]+)", block, re.MULTILINE))
    assert {"quickstart", "test", "docs"} <= mentioned
    assert mentioned <= targets


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"- ([\w/-]+\.md)$", text_of(REPOSITORY / "mkdocs.yml"), re.MULTILINE))
    assert listed == {str(path.relative_to(REPOSITORY / "docs")) for path in (REPOSITORY / "docs").rglob("*.md")}


def test_generated_sections_are_up_to_date(generator: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["--check"]) == 0, capsys.readouterr().out


def test_every_section_is_used_once(generator: ModuleType) -> None:
    used = [name for page in PAGES for name in re.findall(r"<!-- generated: ([a-z -]+) -->", text_of(page))]
    assert sorted(used) == sorted(generator.SECTIONS)


def test_a_stale_page_is_found_and_written(generator: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: devices -->\nold\n<!-- end of devices -->\nafter\n")
    folder = ["--folder", str(tmp_path)]
    assert generator.main([*folder, "--check"]) == 1
    assert "old" in page.read_text()
    assert generator.main(folder) == 0
    assert generator.main([*folder, "--check"]) == 0
    text = page.read_text()
    assert "old" not in text and "rtx-4090" in text
    assert text.startswith("before\n") and text.endswith("after\n")
