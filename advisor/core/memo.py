"""Answers kept on disk: what depends on a model's configuration alone is computed once per machine.

Looking at a model's structure needs torch and transformers, which take seconds to import. Their answers are small and
never change for the same configuration, code and library versions, so a prediction about a model that was looked at
before needs neither of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from advisor.core.code_version import code_version
from advisor.core.errors import AdvisorError
from advisor.core.model import ModelSpec
from advisor.core.serialization import to_dict
from advisor.core.store import user_data_dir

DATABASE = "answers.sqlite3"
CODE = ("advisor.strategies", "advisor.training")
LIBRARIES = ("torch", "transformers", "peft")
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
    text = json.dumps([kind, to_dict(key), code_version(code, LIBRARIES)], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    with contextlib.suppress(sqlite3.Error, AdvisorError, OSError), _database() as database:
        row = database.execute("SELECT answer FROM answers WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return json.loads(row[0])
    answer = json.dumps(to_dict(compute()))
    with contextlib.suppress(sqlite3.Error, AdvisorError, OSError), _database() as database:
        database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (name, kind, answer))
    return json.loads(answer)


def recall_structure(kind: str, model: ModelSpec, key: Any, compute: Callable[[], Any], **options: Any) -> Any:
    """:func:`recall` for answers that follow from a model's structure: configuration, task and number of labels.

    A model that brings Python code of its own is looked at anew each time, because that code may have changed.
    """
    if model.trust_remote_code and "auto_map" in model.config:
        return json.loads(json.dumps(to_dict(compute())))
    identity = [model.config, model.task, model.num_labels, model.model_type]
    return recall(kind, [identity, key], compute, **options)


def file_identity(path: Path) -> list[Any]:
    """What changes when a file is written again: path, size and modification time (and nothing of its content)."""
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]


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
