"""A grid, its cells, and how a cell can end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from advisor.core.errors import AdvisorError, InputError
from advisor.core.serialization import to_dict

P = TypeVar("P")
V = TypeVar("V")
C = TypeVar("C")

KEY_LENGTH = 12
"""Hexadecimal digits of a cell's key: among a thousand cells two share 48 bits with a chance of 2 in 10^9."""

CellOutcome = Literal["completed", "out_of_memory", "crashed", "over_time", "refused", "interrupted"]
"""``crashed``: the process ended without an answer; ``refused``: the cell's function raised an expected error, or the
cell does not suit this machine; ``interrupted``: Ctrl-C, so that the cell is still to be run."""

Shard = tuple[int, int]
"""``(i, n)``: every n-th cell from the i-th on."""


@dataclass(frozen=True)
class Cell(Generic[P]):
    """One cell of a grid.

    Attributes:
        key: Content hash of what is run (:func:`content_key`); the store has one record per key.
        label: The cell in one line.
        payload: What the cell's function takes; picklable where it runs in another process.
        expected_s: Predicted duration in seconds; 0 where nothing has to run, ``None`` where it is not known.
    """

    key: str
    label: str
    payload: P
    expected_s: float | None = None


@dataclass(frozen=True)
class Grid(Generic[P]):
    """Cells in the order in which they run.

    Attributes:
        name: Of the grid.
        cells: With distinct keys.
    """

    name: str
    cells: tuple[Cell[P], ...]

    def __post_init__(self) -> None:
        labels: dict[str, str] = {}
        for cell in self.cells:
            if cell.key in labels:
                raise ValueError(f"keys must be distinct, but {labels[cell.key]!r} and {cell.label!r} share {cell.key}")
            labels[cell.key] = cell.label

    def shard(self, shard: Shard) -> Grid[P]:
        """Every n-th cell from the i-th on, so that every shard has early and late cells.

        Raises:
            InputError: not ``1 <= i <= n``.
        """
        return Grid(self.name, shard_of(self.cells, shard))


@dataclass(frozen=True)
class CellResult(Generic[V]):
    """How a cell ended.

    Attributes:
        outcome: ``"completed"``, or why there is no value.
        value: What the cell's function returned.
        reason: One sentence when it did not complete.
        seconds: Wall clock of its process.
        error: The expected failure that its function raised; only in this process, never stored.
    """

    outcome: CellOutcome
    value: V | None = None
    reason: str = ""
    seconds: float = 0.0
    error: AdvisorError | None = None


def content_key(content: Any) -> str:
    """Hash of a cell's content: equal contents have equal keys, whatever the order of their fields.

    Args:
        content: Records, dictionaries and plain values.
    """
    text = json.dumps(to_dict(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def shard_of(items: Sequence[C], shard: Shard) -> tuple[C, ...]:
    """Every n-th item from the i-th on.

    Raises:
        InputError: not ``1 <= i <= n``.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise InputError(f"a shard i/n must have 1 <= i <= n, but got {index}/{count}", fix="write for example 1/2")
    return tuple(items[index - 1 :: count])
