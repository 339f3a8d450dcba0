"""The Python examples of the documentation type-check against the package."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, REPOSITORY, code_blocks, text_of


def snippets() -> list[str]:
    return [block for page in PAGES for block in code_blocks(text_of(page), "python")]


def type_errors(folder: Path, sources: list[str]) -> str:
    """What mypy says of the sources, with the repository's own settings and cache."""
    files = []
    for number, source in enumerate(sources, start=1):
        file = folder / f"snippet_{number}.py"
        file.write_text(source, encoding="utf-8")
        files.append(str(file))
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary", *files]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout


def test_examples_import_what_there_is() -> None:
    imports = [
        found for source in snippets() for found in re.findall(r"^from ([\w.]+) import ([^(\n]+)$", source, re.M)
    ]
    assert len(imports) >= 2
    for module, names in imports:
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.slow
def test_examples_type_check_and_mistakes_do_not(tmp_path: Path) -> None:
    assert len(snippets()) >= 2
    assert type_errors(tmp_path, snippets()) == ""
    assert "incompatible type" in type_errors(tmp_path, ["from advisor import predict\n\npredict(1)\n"])
