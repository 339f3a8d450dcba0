"""Versions of code, so that what was computed by other code is not taken for an answer of this one.

The digest of a package covers its statements without docstrings and comments: rewording a docstring keeps every cache,
changing a line of code empties those that depend on it. Digests of single files are kept by path, size and
modification time, because parsing a hundred files takes longer than a whole prediction from a cached trace.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from advisor.core.errors import AdvisorError
from advisor.core.store import user_data_dir, write_text_atomically

DIGESTS_FILE = "code-digests.json"
MODEL_LIBRARIES = ("torch", "transformers", "peft")
"""Distributions that decide what a model is made of."""
TRAINING_LIBRARIES = (*MODEL_LIBRARIES, "accelerate", "bitsandbytes")
"""Distributions that decide what a training step does."""


@cache
def code_version(packages: tuple[str, ...], libraries: tuple[str, ...] = ()) -> str:
    """Digest of the code of some packages and of the versions of some libraries.

    Args:
        packages: Importable names, such as ``"advisor.tracing"``; every ``.py`` file below them counts. A name of a
            single module stands for that file.
        libraries: Distribution names; one that is not installed counts as absent.
    """
    digest = hashlib.sha256()
    digests = _FileDigests()
    for package in packages:
        for name, file in _sources(package):
            digest.update(f"{name} {digests.of(file)}\n".encode())
    digests.save()
    for library in libraries:
        digest.update(f"{library} {library_version(library)}\n".encode())
    return digest.hexdigest()[:16]


def library_version(distribution: str) -> str:
    """Version of an installed distribution; empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def source_digest(text: str) -> str:
    """Digest of a module's statements, without docstrings, comments and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        # Strings that stand alone are documentation: of modules, classes, functions, and of constants.
        node.body = [item for item in body if not _is_text(item)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _sources(package: str) -> Iterable[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return
    for folder in spec.submodule_search_locations or ():
        root = Path(folder)
        yield from ((f"{package}/{file.relative_to(root).as_posix()}", file) for file in sorted(root.rglob("*.py")))
    if not spec.submodule_search_locations and spec.origin is not None and spec.origin.endswith(".py"):
        yield package, Path(spec.origin)


class _FileDigests:
    """Digests of files, kept between processes by path, size and modification time."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._known: dict[str, str] = {}
        self._changed = False
        with contextlib.suppress(AdvisorError, OSError, ValueError):
            self._file = user_data_dir() / DIGESTS_FILE
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def of(self, file: Path) -> str:
        state = file.stat()
        key = f"{file}|{state.st_size}|{state.st_mtime_ns}"
        if key not in self._known:
            stale = f"{file}|"
            self._known = {name: value for name, value in self._known.items() if not name.startswith(stale)}
            self._known[key] = source_digest(file.read_text(encoding="utf-8"))
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        if self._changed and self._file is not None:
            with contextlib.suppress(AdvisorError):
                write_text_atomically(self._file, json.dumps(self._known))
