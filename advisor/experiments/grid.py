"""The cells of a grid, how a cell can end, and the loop that runs them one after another.

Each cell is recorded as soon as it has ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from advisor.core.errors import AdvisorError, InputError, InterruptedByUser
from advisor.core.serialization import to_dict
from advisor.measurement.isolation import Result, isolated

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

FIRST_RATIO = 1.5
"""Assumed ratio of a cell's duration to its prediction before any cell has ended."""
REMEMBERED = 5
LEAST_LIMIT_S, LIMIT_RATIO = 120.0, 10.0
"""A cell that takes ten times as long as expected is stuck."""

Stopped = Literal["", "time limit", "interrupted"]
"""Why a grid ended before its last cell, if it did."""


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
    """Every n-th item from the i-th on, so that every shard has early and late ones.

    Raises:
        InputError: not ``1 <= i <= n``.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise InputError(f"a shard i/n must have 1 <= i <= n, but got {index}/{count}", fix="write for example 1/2")
    return tuple(items[index - 1 :: count])


Execute = Callable[[Cell[P], float | None], CellResult[V]]
"""Runs one cell within so many seconds (``None``: without a limit); every end is a result, never an exception."""


class CellStore(Protocol):
    """Where results go; :class:`advisor.experiments.store.RecordStore` keeps them on disk."""

    def is_done(self, key: str) -> bool:
        """Whether a cell needs not run again."""
        ...

    def save(self, cell: Cell[Any], result: CellResult[Any]) -> Any:
        """Record a cell that has ended; it is on disk when this returns."""
        ...


@dataclass(frozen=True)
class CellEvent(Generic[P, V]):
    """A cell begins or has ended.

    Attributes:
        cell: The cell.
        number, total: Its place among the cells of this call, from 1.
        result: How it ended; ``None`` when it begins.
        record: What the store made of the result.
    """

    cell: Cell[P]
    number: int
    total: int
    result: CellResult[V] | None = None
    record: Any = None


class Pace:
    """How long cells take, from their predictions and from how far the last ones were off.

    Args:
        ratios: Measured over predicted duration of earlier cells.
    """

    def __init__(self, ratios: Iterable[float] = ()) -> None:
        self._ratios = list(ratios)

    def expected_s(self, cell: Cell[Any]) -> float:
        """Of a cell: the slowest of the last five ratios times its prediction; 0 where there is none."""
        return max(self._ratios[-REMEMBERED:], default=FIRST_RATIO) * (cell.expected_s or 0.0)

    def limit_s(self, cell: Cell[Any]) -> float | None:
        """After which a cell is stuck; ``None`` where its duration is not known."""
        return max(LEAST_LIMIT_S, LIMIT_RATIO * self.expected_s(cell)) if cell.expected_s is not None else None

    def learn(self, cell: Cell[Any], result: CellResult[Any]) -> None:
        """Take a cell that has ended into account."""
        if result.outcome == "completed" and cell.expected_s:
            self._ratios.append(result.seconds / cell.expected_s)


def run_cells(
    cells: Sequence[Cell[P]],
    execute: Execute[P, V],
    store: CellStore,
    *,
    time_limit_s: float | None = None,
    pace: Pace | None = None,
    on_event: Callable[[CellEvent[P, V]], None] = lambda event: None,
    clock: Callable[[], float] = time.monotonic,
) -> Stopped:
    """Run every cell that the store does not have yet.

    No outcome of a cell ends the grid. A kill loses the cell that is running; the same call goes on with it.

    Args:
        cells: In the order in which they run.
        execute: Runs one cell; :func:`in_own_process` makes one of a function.
        store: Open.
        time_limit_s: No cell begins that would end later; one that runs always does, so that every call gets on.
        pace: With what is known of earlier calls.
        on_event: Called when a cell begins and when it has ended.
        clock: Seconds.

    Returns:
        Why it ended before the last cell, if it did.

    Raises:
        OutputError: a record could not be written; those before are kept.
    """
    pace = pace or Pace()
    deadline_s = None if time_limit_s is None else clock() + time_limit_s
    wanted = [cell for cell in cells if not store.is_done(cell.key)]
    begun = 0
    try:
        for number, cell in enumerate(wanted, start=1):
            runs = cell.expected_s != 0.0
            if runs and begun and deadline_s is not None and clock() + pace.expected_s(cell) > deadline_s:
                return "time limit"
            begun += runs
            on_event(CellEvent(cell, number, len(wanted)))
            result = execute(cell, pace.limit_s(cell))
            if result.outcome == "interrupted":
                return "interrupted"
            pace.learn(cell, result)
            on_event(CellEvent(cell, number, len(wanted), result, store.save(cell, result)))
    except KeyboardInterrupt:
        return "interrupted"
    return ""


def in_own_process(function: Callable[[P], V]) -> Execute[P, V]:
    """Runs ``function(payload)`` of every cell in a process of its own, which ends with its parent.

    Args:
        function: Importable by name; the payload and what it returns are picklable.
    """

    def execute(cell: Cell[P], limit_s: float | None) -> CellResult[V]:
        return cell_result(isolated(function, cell.payload, timeout_s=limit_s))

    return execute


def cell_result(result: Result[V]) -> CellResult[V]:
    """How an isolated call ended, as a cell's result."""
    outcome: CellOutcome = "crashed" if result.outcome == "failed" else result.outcome
    if result.error is not None:
        outcome = "interrupted" if isinstance(result.error, InterruptedByUser) else "refused"
    return CellResult(outcome, result.value, " ".join(result.reason.split()), result.wall_s, result.error)
