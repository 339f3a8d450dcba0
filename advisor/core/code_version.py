"""Versions of code, so that what was computed by other code is not taken for an answer of this one.

The digest of a package covers its statements without docstrings and comments: rewording a docstring keeps every cache,
changing a line of code empties those that depend on it. Digests of single files are kept by path, size and
modification time, because parsing a hundred files takes longer than a whole prediction from a cached trace.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import CodeType

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
    """Digest of what a module's statements do, without docstrings, comments, layout and assertions.

    It is that of their bytecode, which the compiler makes without all of these (``python -OO``); so another Python
    version has other digests. Compiling takes a third of the time of walking the syntax tree.

    Raises:
        SyntaxError: the text is no Python.
    """
    digest = hashlib.sha256()
    _add_code(digest, compile(text, "", "exec", optimize=2, dont_inherit=True))
    return digest.hexdigest()[:16]


def _add_code(digest: hashlib._Hash, code: CodeType) -> None:
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    digest.update(code.co_code)
    digest.update(repr((shape, names)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(digest, constant)
        else:
            digest.update(_in_order(constant).encode())


def _in_order(constant: object) -> str:
    """A constant in words that do not depend on the order of a set, which differs from process to process."""
    if isinstance(constant, frozenset):
        return f"{{{', '.join(sorted(map(_in_order, constant)))}}}"
    if isinstance(constant, tuple):
        return f"({', '.join(map(_in_order, constant))})"
    return f"{type(constant).__name__} {constant!r}"


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
