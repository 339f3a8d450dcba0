"""Names of strategies (and other registered things) decide nothing outside the room that registers them.

Whatever another room needs to know of a method, task, metric or device, it asks by a trait. This test walks the syntax
trees of the package: a string constant that equals a registered name may stand in the room of its registry and nowhere
else. Docstrings do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from advisor.strategies import strategy_names

PACKAGE = Path(__file__).resolve().parents[1] / "advisor"


@dataclass(frozen=True)
class Names:
    """Registered names, and where they may stand.

    Attributes:
        kind: What they name.
        registered: All names that count.
        rooms: Files and folders of the package, relative to it, that own them.
    """

    kind: str
    registered: Callable[[], tuple[str, ...]]
    rooms: tuple[str, ...]


REGISTRIES = (Names("method", strategy_names, ("strategies",)),)

ALLOWED = {
    ("method", "core/code_version.py"): "peft is also the name of a library, whose version decides what a step does",
    ("method", "core/device.py"): "partial is also the name of a fact in stored device profiles",
}
"""At most ten files that may name something of another room, each with its reason."""


def constants(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants but for those that stand alone, which are documentation."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node


def found(names: Names) -> dict[str, list[str]]:
    """``"line: name"`` of every constant outside the owners' rooms, by file."""
    registered = set(names.registered())
    places: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        if any(path == room or path.startswith(f"{room}/") for room in names.rooms):
            continue
        hits = [node for node in constants(ast.parse(file.read_text(encoding="utf-8"))) if node.value in registered]
        if hits:
            places[path] = [f"{node.lineno}: {node.value}" for node in sorted(hits, key=lambda node: node.lineno)]
    return places


@pytest.mark.parametrize("names", REGISTRIES, ids=lambda names: names.kind)
def test_registered_names_stay_in_their_room(names: Names) -> None:
    places = found(names)
    allowed = {path for kind, path in ALLOWED if kind == names.kind}
    assert not {path: lines for path, lines in places.items() if path not in allowed}
    assert allowed <= places.keys(), "an exception that is no longer needed must go"


def test_there_are_few_exceptions() -> None:
    assert len(ALLOWED) <= 10
    assert all(len(reason) > 20 for reason in ALLOWED.values())


def test_a_compared_name_is_found() -> None:
    tree = ast.parse('"""lora"""\ndef f(x):\n    "lora"\n    return x == "lora" or x in {"qlora": 1}\n')
    assert [node.value for node in constants(tree)] == ["lora", "qlora"]
