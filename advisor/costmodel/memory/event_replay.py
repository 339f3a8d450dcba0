"""What every model of an allocator shares: running through traced events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any


class EventReplay(ABC):
    """Allocates and frees by storage number.

    Attributes:
        out_of_memory: Whether a request failed.
    """

    out_of_memory: bool
    _blocks: dict[int, Any]
    """What is allocated, by the caller's number."""

    @abstractmethod
    def allocate(self, number: int, size_bytes: int) -> bool:
        """Allocate ``size_bytes`` under the caller's ``number``; says whether that was possible."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Free what ``allocate`` stored under ``number``; neighbours merge."""

    def replay(self, events: Iterable[int], sizes_bytes: list[int]) -> bool:
        """Run through events (``~number`` frees) until they end or memory does; says whether everything fitted."""
        allocate, release, blocks = self.allocate, self.release, self._blocks
        for event in events:
            if event >= 0:
                if sizes_bytes[event] and not allocate(event, sizes_bytes[event]):
                    return False
            elif ~event in blocks:
                release(~event)
        return True

    def is_live(self, number: int) -> bool:
        """Whether ``number`` is allocated."""
        return number in self._blocks
