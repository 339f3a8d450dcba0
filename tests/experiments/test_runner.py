"""The loop over cells: what ends it, what does not, and how it knows how long the next cell takes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from advisor.core.errors import InterruptedByUser, ModelError
from advisor.experiments.grid import (
    FIRST_RATIO,
    Cell,
    CellEvent,
    CellOutcome,
    CellResult,
    Pace,
    cell_result,
    in_own_process,
    run_cells,
)
from advisor.experiments.store import CellRecord, GridHeader, RecordStore, cell_format
from advisor.measurement.isolation import Result


@dataclass(frozen=True)
class Figure:
    """What a cell of these tests finds."""

    value: float


FORMAT = cell_format(Figure, "a test")
Store = RecordStore[GridHeader, CellRecord[Figure]]


def store(path: Path | None = None, *, resume: bool = True) -> Store:
    return RecordStore(path, GridHeader("grid", "cpu-test"), FORMAT, resume=resume)


def cells(count: int, expected_s: float | None = None) -> list[Cell[int]]:
    return [Cell(str(index), f"cell {index}", index, expected_s) for index in range(count)]


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def ending(
    *outcomes: CellOutcome, clock: Clock | None = None, seconds: float = 1.0
) -> Callable[..., CellResult[Figure]]:
    """Stands for the processes: cell after cell ends as given, and the clock goes on."""
    left = list(outcomes)

    def execute(cell: Cell[int], limit_s: float | None) -> CellResult[Figure]:
        outcome = left.pop(0)
        if clock is not None:
            clock.now_s += seconds
        done = outcome == "completed"
        return CellResult(outcome, Figure(cell.payload) if done else None, "" if done else "so it ended", seconds)

    return execute


def test_no_outcome_of_a_cell_ends_the_grid(tmp_path: Path) -> None:
    outcomes: tuple[CellOutcome, ...] = ("completed", "out_of_memory", "over_time", "crashed", "refused", "completed")
    events: list[CellEvent[int, Figure]] = []
    with store(tmp_path / "records.jsonl") as opened:
        assert run_cells(cells(6), ending(*outcomes), opened, on_event=events.append) == ""
    with store(tmp_path / "records.jsonl") as read:
        assert [record.outcome for record in read.records.values()] == list(outcomes)
        assert read.records["0"].value == Figure(0)
        assert (read.records["1"].reason, read.records["1"].value) == ("so it ended", None)
    assert [(event.number, event.result is None) for event in events[:4]] == [
        (1, True),
        (1, False),
        (2, True),
        (2, False),
    ]
    assert {event.total for event in events} == {6}
    assert events[1].record == read.records["0"]


def test_another_call_runs_only_what_is_missing_or_did_not_complete(tmp_path: Path) -> None:
    path, ran = tmp_path / "records.jsonl", list[str]()
    with store(path) as opened:
        run_cells(cells(3), ending("completed", "crashed", "completed"), opened)
    before = path.read_bytes()
    with store(path) as opened:
        stopped = run_cells(
            cells(4), ending("completed", "completed"), opened, on_event=lambda event: ran.append(event.cell.key)
        )
        assert stopped == ""
        assert {record.outcome for record in opened.records.values()} == {"completed"}
    assert list(dict.fromkeys(ran)) == ["1", "3"]
    assert path.read_bytes().startswith(before)


def test_ctrl_c_keeps_what_was_measured_and_leaves_the_cell_for_later(tmp_path: Path) -> None:
    with store(tmp_path / "records.jsonl") as opened:
        assert run_cells(cells(3), ending("completed", "interrupted"), opened) == "interrupted"
        assert list(opened.records) == ["0"]

    def raising(cell: Cell[int], limit_s: float | None) -> CellResult[Figure]:
        raise KeyboardInterrupt

    with store(tmp_path / "records.jsonl") as opened:
        assert run_cells(cells(3), raising, opened) == "interrupted"
        assert list(opened.records) == ["0"]


def test_a_cell_that_would_end_too_late_is_not_begun() -> None:
    clock = Clock()
    some = [*cells(2, expected_s=1.0), Cell("long", "long", 9, 1000.0), Cell("never", "never", 9, 1.0)]
    with store() as opened:
        execute = ending("completed", "completed", clock=clock)
        assert run_cells(some, execute, opened, time_limit_s=60.0, clock=clock) == "time limit"
        assert list(opened.records) == ["0", "1"]


def test_one_cell_always_runs_so_that_every_call_gets_on() -> None:
    with store() as opened:
        long = [Cell("long", "long", 9, 1000.0), *cells(1, expected_s=1.0)]
        assert run_cells(long, ending("completed"), opened, time_limit_s=0.0, clock=Clock()) == "time limit"
        assert list(opened.records) == ["long"]


def test_a_cell_in_which_nothing_runs_is_never_held_back() -> None:
    clock = Clock()
    with store() as opened:
        some = [*cells(1, expected_s=5.0), Cell("left out", "left out", 9, 0.0), Cell("late", "late", 9, 5.0)]
        execute = ending("completed", "refused", clock=clock, seconds=5.0)
        assert run_cells(some, execute, opened, time_limit_s=1.0, clock=clock) == "time limit"
        assert list(opened.records) == ["0", "left out"]


def test_cells_of_unknown_duration_run_until_the_time_is_over() -> None:
    clock = Clock()
    with store() as opened:
        execute = ending("completed", "completed", "completed", clock=clock, seconds=4.0)
        assert run_cells(cells(9), execute, opened, time_limit_s=10.0, clock=clock) == "time limit"
        assert list(opened.records) == ["0", "1", "2"]


def test_a_stuck_cell_gets_a_limit_above_what_it_should_take() -> None:
    limits: list[float | None] = []

    def execute(cell: Cell[int], limit_s: float | None) -> CellResult[Figure]:
        limits.append(limit_s)
        return CellResult("completed", Figure(1.0), seconds=cell.expected_s or 0.0)

    some = [*cells(1, expected_s=2.0), Cell("long", "long", 1, 100.0), Cell("unknown", "unknown", 1)]
    with store() as opened:
        run_cells(some, execute, opened)
    assert limits == [120.0, 1000.0, None]


def test_the_pace_follows_the_slowest_of_the_last_cells() -> None:
    pace, (cell,) = Pace(), cells(1, expected_s=2.0)
    assert pace.expected_s(cell) == FIRST_RATIO * 2.0
    for seconds in (100.0, *[1.0] * 4, 2.0):
        pace.learn(cell, CellResult("completed", seconds=seconds))
    assert pace.expected_s(cell) == 2.0
    pace.learn(cell, CellResult("over_time", seconds=999.0))
    assert pace.expected_s(cell) == 2.0
    assert Pace([3.0]).expected_s(cell) == 6.0
    assert Pace([3.0]).expected_s(cells(1)[0]) == 0.0


def test_an_expected_failure_is_a_refusal_and_not_a_crash() -> None:
    refused = cell_result(Result("failed", reason="no such\n kernel", error=ModelError("no such kernel"), wall_s=2.0))
    assert (refused.outcome, refused.reason, refused.seconds) == ("refused", "no such kernel", 2.0)
    assert cell_result(Result("failed", reason="exit code 1")).outcome == "crashed"
    assert cell_result(Result("failed", error=InterruptedByUser("stopped"))).outcome == "interrupted"


# In processes of their own.


def half(payload: int) -> Figure:
    return Figure(payload / 2)


def kill_at_once(payload: int) -> Figure:
    os.kill(os.getpid(), signal.SIGKILL)
    return Figure(payload)


def leave(payload: int) -> Figure:
    os._exit(3)


def refuse(payload: int) -> Figure:
    raise ModelError("this model has no weights")


def sleep(payload: int) -> Figure:
    time.sleep(60)
    return Figure(payload)


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (half, "completed"),
        (kill_at_once, "out_of_memory"),
        (leave, "crashed"),
        (refuse, "refused"),
        (sleep, "over_time"),
    ],
)
def test_every_end_of_a_process_is_an_outcome(function: Callable[[int], Figure], outcome: str) -> None:
    result = in_own_process(function)(Cell("k", "k", 7), 2.0 if function is sleep else 60.0)
    assert result.outcome == outcome
    assert result.value == (Figure(3.5) if outcome == "completed" else None)
    assert result.seconds > 0
