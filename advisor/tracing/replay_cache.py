"""Replays that were made before, on disk: a whole run costs a quarter of a second, its answer is three numbers.

One JSON file per traced family, beside its traces. An entry names everything that the replay depends on, the version of
the code that replays included. Two processes that write at once lose an entry, never the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from advisor.core.errors import AdvisorError
from advisor.core.store import write_text_atomically


class ReplayCache:
    """Numbers by what they were computed from.

    Args:
        path: The family's file; ``None`` remembers nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[int]] | None = None

    def get(self, key: str, compute: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The numbers of ``key``, computed when they are not known."""
        if self._path is None:
            return compute()
        if self._known is None:
            self._known = self._read()
        if key not in self._known:
            found = compute()
            self._known = self._read() | self._known
            self._known[key] = list(found)
            with contextlib.suppress(OSError, AdvisorError):
                write_text_atomically(self._path, json.dumps(self._known))
        return tuple(self._known[key])

    def _read(self) -> dict[str, list[int]]:
        """What is on disk; nothing when it is damaged."""
        try:
            values = json.loads(self._path.read_text()) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        if not isinstance(values, dict):
            return {}
        return {
            key: value
            for key, value in values.items()
            if isinstance(value, list) and all(isinstance(number, int) for number in value)
        }
