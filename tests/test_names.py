"""Names of strategies (and other registered things) decide nothing outside the room that registers them.

Whatever another room needs to know of a method, task, metric or device, it asks by a trait. This test walks the syntax
trees of the package: a string constant that equals a registered name may stand in the room of its registry and nowhere
else. Docstrings do not count. Types of devices are also what torch calls them, so that they may be passed on anywhere,
but compared, matched or used as a key only by the back ends.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from advisor.core.metrics import METRICS
from advisor.core.tasks import task_names
from advisor.hardware.backends import backend_names
from advisor.strategies import strategy_names

PACKAGE = Path(__file__).resolve().parents[1] / "advisor"


@dataclass(frozen=True)
class Names:
    """Registered names, and where they may stand.

    Attributes:
        kind: What they name.
        registered: All names that count.
        rooms: Files and folders of the package, relative to it, that own them.
        counted: Which constants of a module count; all by default.
    """

    kind: str
    registered: Callable[[], tuple[str, ...]]
    rooms: tuple[str, ...]
    counted: Callable[[ast.AST], Iterator[ast.Constant]] | None = None


ALLOWED = {
    ("method", "core/code_version.py"): "peft is also the name of a library, whose version decides what a step does",
    ("method", "core/device.py"): "partial is also the name of a fact in stored device profiles",
    ("device", "hardware/probe_results.py"): "cpu is also a fact in stored device profiles",
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


LOOKUPS = ("startswith", "endswith", "removeprefix", "removesuffix", "get", "pop", "setdefault", "index", "count")
"""Methods whose arguments are compared or used as a key."""


def deciding(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants that are compared, matched or used as a key."""
    for node in ast.walk(tree):
        for part in _compared(node):
            yield from (
                inner for inner in ast.walk(part) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
            )


def _compared(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Compare(left, _, comparators):
            return [left, *comparators]
        case ast.Dict(keys):
            return [key for key in keys if key is not None]
        case ast.Subscript(ast.Name("Literal")):
            return []
        case ast.Subscript(_, key):
            return [key]
        case ast.MatchValue(value):
            return [value]
        case ast.Call(ast.Attribute(_, name), arguments) if name in LOOKUPS:
            return arguments
        case _:
            return []


REGISTRIES = (
    Names("method", strategy_names, ("strategies",)),
    Names("task", task_names, ("training/tasks",)),
    Names("metric", METRICS.names, ("core/metrics.py",)),
    Names("device", backend_names, ("hardware/backends",), counted=deciding),
)


def found(names: Names) -> dict[str, list[str]]:
    """``"line: name"`` of every constant outside the owners' rooms, by file."""
    registered = set(names.registered())
    places: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        if any(path == room or path.startswith(f"{room}/") for room in names.rooms):
            continue
        counted = names.counted or constants
        hits = [node for node in counted(ast.parse(file.read_text(encoding="utf-8"))) if node.value in registered]
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


def test_only_what_decides_counts_where_names_may_be_passed_on() -> None:
    program = """
f(device="cuda")
if kind == "cpu" or kind in ("rocm", "mps"): pass
rates = {"cuda": 1}; rates["tpu"]; rates.get("xpu"); kind.startswith("cuda:")
match kind:
    case "npu": pass
Kind = Literal["cpu", "gpu"]
"""
    assert sorted(node.value for node in deciding(ast.parse(program))) == sorted(
        ["cpu", "rocm", "mps", "cuda", "tpu", "xpu", "cuda:", "npu"]
    )
