"""The cost model is pure: coefficients and traces go in, costs come out; no files, no processes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import advisor.costmodel

ROOM = Path(advisor.costmodel.__file__).parent
FORBIDDEN = frozenset(
    (
        *("os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "subprocess", "multiprocessing", "threading"),
        *("socket", "signal", "advisor.core.store", "advisor.core.memo", "advisor.core.append_log"),
        "advisor.measurement",
    )
)
"""Modules of files and processes."""
READS_AND_WRITES = frozenset(
    (
        *("open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink"),
        *("read_json", "write_text_atomically", "user_data_dir"),
    )
)


def imports(tree: ast.AST) -> Iterator[str]:
    """What runs when the module is imported or used; imports for type checkers are none of it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names))
        else:
            yield from imports(node)


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def impurities(source: str) -> set[str]:
    tree = ast.parse(source)
    loaded = {name for found in imports(tree) for name in (found, found.partition(".")[0])}
    loaded |= {".".join(found.split(".")[:2]) for found in imports(tree)}
    return (loaded & FORBIDDEN) | (set(names(tree)) & READS_AND_WRITES)


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_the_cost_model_touches_no_files_and_no_processes(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import os.path",
        "from pathlib import Path",
        "def f():\n    import subprocess",
        "from advisor.core.store import user_data_dir as folder",
        "from advisor.measurement.run import measure_run",
        "text = open('x')",
        "text = path.read_text()",
    ],
)
def test_an_impure_module_is_noticed(source: str) -> None:
    assert impurities(source)
    assert not impurities("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pathlib import Path")
