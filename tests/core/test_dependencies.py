"""What the package imports is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "advisor"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PARTS = {"pydantic-core": "pydantic"}
"""Distributions that come as part of a declared one, which alone says which version."""
NAMED_IMPORT = re.compile(r"([A-Za-z_]\w*)((\.\w+)+|:\w+)(:\w+)?")
"""A module, or something in it, named by a string that is imported later: ``"package.module:function"``."""


def declared(*extras: str) -> dict[str, Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, texts)}


def named_packages(tree: ast.AST) -> Iterator[str]:
    """Top-level names of everything that a module imports, or names by a string to import it later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = NAMED_IMPORT.fullmatch(node.value)
            if match is not None:
                yield f"?{match[1]}"


def imported() -> tuple[set[str], set[str]]:
    """Distributions that are imported, and those that strings may name besides."""
    known = packages_distributions()
    certain, possible = set(), set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for name in named_packages(ast.parse(file.read_text(encoding="utf-8"))):
            found = possible if name.startswith("?") else certain
            name = name.removeprefix("?")
            if name not in sys.stdlib_module_names and name != "advisor":
                distributions = map(canonicalize_name, known.get(name, [name] if found is certain else []))
                found.update(PARTS.get(distribution, distribution) for distribution in distributions)
    return certain, possible


def test_what_is_imported_is_declared() -> None:
    certain, _ = imported()
    assert certain - declared("excel", "gguf", "rouge", "dpo").keys() == set()


def test_what_is_declared_is_imported() -> None:
    certain, possible = imported()
    assert declared().keys() - certain - possible == set()


def test_every_lowest_version_is_the_declared_one() -> None:
    lines = (REPOSITORY / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = {name: version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    requirements = declared("excel", "gguf", "rouge")
    assert lowest.keys() == requirements.keys()
    for name, requirement in requirements.items():
        [bound] = requirement.specifier
        assert bound.operator == ">=", requirement
        padded = lowest[name].split(".")[: len(bound.version.split("."))]
        assert ".".join(padded) == bound.version, f"{name}: {bound} and {lowest[name]}"


def test_the_classifiers_say_what_is_tested() -> None:
    systems = [line for line in PROJECT["classifiers"] if line.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
