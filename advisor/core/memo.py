"""Answers kept on disk: what depends on a model's configuration alone is computed once per machine.

Looking at a model's structure needs torch and transformers, which take seconds to import. Their answers are small and
never change for the same configuration, code and library versions, so a prediction about a model that was looked at
before needs neither of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from advisor.core.code_version import MODEL_LIBRARIES, code_version
from advisor.core.errors import AdvisorError
from advisor.core.model import ModelSpec
from advisor.core.store import user_data_dir
from advisor.core.tasks import TASKS

Method = TypeVar("Method", bound=Callable[..., Any])

DATABASE = "answers.sqlite3"
CODE = ("advisor.strategies", "advisor.training")
WAIT_S = 2.0
"""How long to wait for another process that is writing an answer."""


def recall(kind: str, key: Any, compute: Callable[[], Any], *, code: tuple[str, ...] = CODE) -> Any:
    """The answer to a question that was asked before with the same code, or computed and kept.

    Args:
        kind: What is asked.
        key: What the answer depends on; turned into JSON.
        compute: Gives a JSON-ready answer. What it raises is passed on and not kept.
        code: Packages whose code the answer depends on.

    Returns:
        The answer as it comes back from JSON: tuples are lists. Without a writable data directory, the fresh answer.
    """
    text = _json([kind, key, code_version(code, MODEL_LIBRARIES)])
    name = hashlib.sha256(text.encode()).hexdigest()
    if name not in _ANSWERS:
        _ANSWERS[name] = _from_disk(name, kind, compute)
    return json.loads(_ANSWERS[name])


_ANSWERS: dict[str, str] = {}
"""What this process has asked for already, as JSON by hash of the question."""


def _from_disk(name: str, kind: str, compute: Callable[[], Any]) -> str:
    with contextlib.suppress(sqlite3.Error, AdvisorError, OSError), _database() as database:
        row = database.execute("SELECT answer FROM answers WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return str(row[0])
    answer = _json(compute())
    with contextlib.suppress(sqlite3.Error, AdvisorError, OSError), _database() as database:
        database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (name, kind, answer))
    return answer


def recall_structure(kind: str, model: ModelSpec, key: Any, compute: Callable[[], Any], **options: Any) -> Any:
    """:func:`recall` for answers that follow from a model's structure: configuration, task and number of labels.

    A model that brings Python code of its own is looked at anew each time, because that code may have changed.
    """
    if model.trust_remote_code and "auto_map" in model.config:
        return json.loads(_json(compute()))
    identity = [model.config, model.task, TASKS.code_version(model.task), model.num_labels, model.model_type]
    return recall(kind, [identity, key], compute, **options)


def kept_on_disk(method: Method) -> Method:
    """Keeps the answers of a method whose arguments are a model and JSON-ready values or records.

    The class counts as part of the question, and so does the code of the package that defines it.

    Args:
        method: One of its arguments is a ``ModelSpec``, of which it reads what :func:`recall_structure` names; its
            answer is JSON-ready (numbers, texts, lists and dictionaries of them).
    """

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Any:
        model = next(argument for argument in args if isinstance(argument, ModelSpec))
        package = type(self).__module__.split(".")[0]
        return recall_structure(
            f"{type(self).__module__}.{type(self).__qualname__}: {method.__qualname__}",
            model,
            [argument for argument in args if argument is not model],
            lambda: method(self, *args),
            code=CODE if package == "advisor" else (*CODE, package),
        )

    return cast(Method, wrapper)


def files_identity(path: Path) -> list[Any]:
    """What changes when a file, or one directly in a folder, is written again: path, size and modification time."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files if file.is_file()]
    return [[str(file.resolve()), state.st_size, state.st_mtime_ns] for file, state in states]


def _json(value: Any) -> str:
    """JSON with records as objects; infinity, which configurations do contain, stays itself."""
    return json.dumps(value, sort_keys=True, default=_fields)


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """The open database; a damaged file is removed, since all it held can be computed again."""
    file = user_data_dir() / DATABASE
    connection = sqlite3.connect(file, timeout=WAIT_S)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE IF NOT EXISTS answers (name TEXT PRIMARY KEY, kind TEXT, answer TEXT)")
        with connection:
            yield connection
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        file.unlink(missing_ok=True)
        raise
    finally:
        connection.close()
