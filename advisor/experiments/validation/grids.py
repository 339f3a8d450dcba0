"""The grids of a validation: which cases they have, small ones first. The cases themselves are data (``grids.json``).

=============  =======================================  ===========================================================
grid           memory                                   step time
=============  =======================================  ===========================================================
``cpu``        small relatives of eight architectures,  four models, all strategies, four shapes, each switch on
               a few minutes on two cores               some of them; a quarter of an hour on two quiet cores
``cpu-wide``   none                                     the same and many short steps more, enough for the coverage
                                                        of intervals
``cuda``       published sizes from 66M to 8B           the ordinary cases of the memory grid, and small batches
               parameters, 64 to 4096 tokens; rows      that are bound by the host
               near the capacity and beyond it follow
               from the prediction, so that it suits
               any card
``quick``      a few of the device's own                a few of the device's own
=============  =======================================  ===========================================================

In the data a case is ``"model method ROWSxLENGTH"`` with named switches and knobs, then fields as ``name=value``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, get_args

from advisor.core.errors import InputError
from advisor.experiments.grid import Cell, Grid
from advisor.experiments.validation.cases import Case, case_key
from advisor.experiments.validation.records import GridName, Kind

GRIDS_FILE = Path(__file__).with_name("grids.json")
GRIDS: tuple[GridName, ...] = get_args(GridName)
REPEATS = 5
"""Timed steps of a case, of which the median counts."""
MEASURED_TWICE = 8
"""Cases of a time grid that are measured once more when all others are done."""
QUICK_TIMED = 6


def validation_grid(grid: GridName, device_type: str, kind: Kind = "memory", repeats: int | None = None) -> Grid[Case]:
    """A grid by name.

    Args:
        grid: Its name.
        device_type: Where it runs; ``"quick"`` differs.
        kind: ``"all"`` has the cases of both kinds, those that both have once and timed.
        repeats: Timed steps of every timed case; the grid's own when ``None``.

    Raises:
        InputError: no such grid, or none of that kind.
    """
    memory = _memory_cases(grid, device_type) if kind != "time" else ()
    timed = _time_cases(grid, device_type) if kind != "memory" else ()
    if not memory and not timed:
        known = [name for name in GRIDS if kind != "memory" or name != "cpu-wide"]
        raise InputError(f"the grid must be one of {', '.join(known)} for {kind} on {device_type}, but got {grid!r}")
    if repeats is not None:
        timed = _timed(timed, repeats)
    return grid_of(grid, {case_key(case): case for case in (*memory, *timed)}.values())


def grid_of(name: str, cases: Iterable[Case]) -> Grid[Case]:
    """A grid of any cases."""
    return Grid(name, tuple(Cell(case_key(case), case.label, case) for case in cases))


def device_of(grid: GridName) -> str | None:
    """The kind of device that a grid is for; ``None`` for any."""
    device_type: str | None = _data()["grids"][grid]
    return device_type


@cache
def _data() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GRIDS_FILE.read_text(encoding="utf-8"))
    return content


def case_of(text: str) -> Case:
    """A case as the data has it: ``"bert-base full 16x512 amp task=masked-lm"``."""
    model, method, shape, *words = text.split()
    rows, length = shape.split("x")
    case = Case(model, method, int(rows), int(length))
    for word in words:
        name, _, value = word.partition("=")
        if value:
            field: dict[str, Any] = {name: value if name == "task" else json.loads(value)}
            case = dataclasses.replace(case, **field)
        elif word in _data()["knobs"]:
            case = dataclasses.replace(case, knobs=_data()["knobs"][word])
        else:
            case = dataclasses.replace(case, execution={**case.execution, **_data()["switches"][word]})
    return case


def _cases(texts: Iterable[str]) -> tuple[Case, ...]:
    return tuple(map(case_of, texts))


def _memory_cases(grid: GridName, device_type: str) -> tuple[Case, ...]:
    if grid == "quick":
        end, step = _data()["quick"][device_type]
        return _cases(_data()["memory"][device_type][:end:step])
    return _cases(_data()["memory"].get(grid, ())) if _data()["grids"].get(grid) == device_type else ()


def _time_cases(grid: GridName, device_type: str) -> tuple[Case, ...]:
    make = _TIME_GRIDS.get((grid, device_type))
    return make() if make is not None else ()


def _time_cpu() -> tuple[Case, ...]:
    time = _data()["time"]
    twice = set(time["twice"])
    crossed = [*_crossed(time["shapes"], 0), *(case for case in _crossed(time["shapes"], 2) if case.method in twice)]
    return _with_repeats([*crossed, *_cases(time["switched"])])


def _time_cpu_wide() -> tuple[Case, ...]:
    shapes = _data()["time"]["short_shapes"]
    short = [case for shift in range(len(shapes)) for case in _crossed(shapes, shift)]
    return (*_time_cpu(), *_timed(short))


def _time_cuda() -> tuple[Case, ...]:
    ordinary = [
        case
        for case in _cases(_data()["memory"]["cuda"])
        if case.room is None and case.fill is None and not case.mixed_lengths
    ]
    return _with_repeats([*ordinary, *_cases(_data()["time"]["host_bound"])])


def _time_quick_cpu() -> tuple[Case, ...]:
    model = _data()["time"]["models"][0]
    first = [case for case in _time_cpu() if case.model == model][:QUICK_TIMED]
    return (*first, dataclasses.replace(first[0], again=1))


_TIME_GRIDS: dict[tuple[GridName, str], Callable[[], tuple[Case, ...]]] = {
    ("cpu", "cpu"): _time_cpu,
    ("cpu-wide", "cpu"): _time_cpu_wide,
    ("cuda", "cuda"): _time_cuda,
    ("quick", "cpu"): _time_quick_cpu,
    ("quick", "cuda"): lambda: _timed(_memory_cases("quick", "cuda")),
}


def _crossed(shapes: list[list[int]], shift: int) -> list[Case]:
    """One case per model and method, the shapes spread evenly over both."""
    time, cases = _data()["time"], []
    for column, (method, knobs) in enumerate(time["methods"].items()):
        for row, model in enumerate(time["models"]):
            rows, length = shapes[(row + column + shift) % len(shapes)]
            case = case_of(" ".join(filter(None, (model, method, f"{rows}x{length}", knobs))))
            cases.append(dataclasses.replace(case, task=time["tasks"].get(f"{model} {method}")))
    return cases


def _timed(cases: Iterable[Case], repeats: int = REPEATS) -> tuple[Case, ...]:
    return tuple(dataclasses.replace(case, repeats=repeats) for case in cases)


def _with_repeats(cases: list[Case]) -> tuple[Case, ...]:
    """Every case timed, and some of them once more when all others are done."""
    timed = _timed(cases)
    return (*timed, *(dataclasses.replace(case, again=1) for case in timed[:: len(timed) // MEASURED_TWICE]))
