"""Runs the cells of a grid one after another, and records each as soon as it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol

from advisor.core.errors import InterruptedByUser
from advisor.core.run import Outcome
from advisor.experiments.grid import Cell, CellOutcome, CellResult, P, Shard, V, shard_of
from advisor.measurement.isolation import Result, isolated

FIRST_RATIO = 1.5
"""Assumed ratio of a cell's duration to its prediction before any cell has ended."""
REMEMBERED = 5
LEAST_LIMIT_S, LIMIT_RATIO = 120.0, 10.0
"""A cell that takes ten times as long as expected is stuck."""

Stopped = Literal["", "time limit", "interrupted"]
"""Why a grid ended before its last cell, if it did."""
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
    shard: Shard = (1, 1),
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
        shard: ``(i, n)``: only every n-th cell from the i-th on.
        time_limit_s: No cell begins that would end later; one that runs always does, so that every call gets on.
        pace: With what is known of earlier calls.
        on_event: Called when a cell begins and when it has ended.
        clock: Seconds.

    Returns:
        Why it ended before the last cell, if it did.

    Raises:
        InputError: not ``1 <= i <= n``.
        OutputError: a record could not be written; those before are kept.
    """
    pace = pace or Pace()
    deadline_s = None if time_limit_s is None else clock() + time_limit_s
    wanted = [cell for cell in shard_of(cells, shard) if not store.is_done(cell.key)]
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


_OUTCOMES: dict[Outcome, CellOutcome] = {
    "completed": "completed",
    "out_of_memory": "out_of_memory",
    "over_time": "over_time",
    "interrupted": "interrupted",
    "failed": "crashed",
}


def cell_result(result: Result[V]) -> CellResult[V]:
    """How an isolated call ended, as a cell's result."""
    outcome = _OUTCOMES[result.outcome]
    if result.error is not None:
        outcome = "interrupted" if isinstance(result.error, InterruptedByUser) else "refused"
    return CellResult(
        outcome,
        result.value,
        " ".join(result.reason.split()),
        result.wall_s,
        result.error,
    )
