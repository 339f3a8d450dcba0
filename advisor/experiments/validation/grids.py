"""The grids of a validation: which cases they have, small ones first. The cases themselves are data (``grids.json``).

=============  ======================================================  ===============================================
grid           memory                                                  step time
=============  ======================================================  ===============================================
``cpu``        small relatives of eight architectures, a few minutes   four models, all strategies, four shapes, each
               on two cores                                            switch on some of them
``cpu-wide``   none                                                    the same and many short steps more, enough for
                                                                       the coverage of intervals
``cuda``       published sizes from 66M to 8B parameters, 64 to 4096   the ordinary cases of the memory grid, and small
               tokens; rows near the capacity and beyond it follow     batches that are bound by the host
               from the prediction, so that it suits any card
``quick``      a few of the device's own                               a few of the device's own
=============  ======================================================  ===============================================

Every model is timed as often as any other, every shape with every method; some cases are timed once more when all
others are done. In the data a case is ``"model method ROWSxLENGTH"`` with named switches and knobs, then fields as
``name=value``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, get_args

from advisor.core.errors import InputError
from advisor.experiments.grid import Cell
from advisor.experiments.validation.cases import Case, case_key
from advisor.experiments.validation.records import GridName, Kind

GRIDS_FILE = Path(__file__).with_name("grids.json")
GRIDS: tuple[GridName, ...] = get_args(GridName)
REPEATS = 5
"""Timed steps of a case, of which the median counts."""


def validation_grid(
    grid: GridName, device_type: str, kind: Kind = "memory", repeats: int | None = None
) -> tuple[Cell[Case], ...]:
    """The cells of a grid.

    Args:
        grid: Its name.
        device_type: Where it runs; ``"quick"`` differs.
        kind: ``"all"`` has the cases of both kinds, those that both have once and timed.
        repeats: Timed steps of every timed case; the grid's own when ``None``.

    Raises:
        InputError: no such grid, or none of that kind.
    """
    lists = _data()["grids"].get(grid, {}).get(device_type, {"memory": [], "time": []})
    memory = _listed(lists["memory"]) if kind != "time" else []
    timed = [dataclasses.replace(case, repeats=repeats or REPEATS) for case in _listed(lists["time"])]
    cases = {case_key(case): case for case in (*memory, *(timed if kind != "memory" else ()))}
    if not cases:
        known = [name for name in GRIDS if kind != "memory" or name != "cpu-wide"]
        raise InputError(f"the grid must be one of {', '.join(known)} for {kind} on {device_type}, but got {grid!r}")
    return cells_of(cases.values())


def cells_of(cases: Iterable[Case]) -> tuple[Cell[Case], ...]:
    """Cells of any cases."""
    return tuple(Cell(case_key(case), case.label, case) for case in cases)


def device_of(grid: GridName) -> str | None:
    """The kind of device that a grid is for; ``None`` for any."""
    devices = list(_data()["grids"][grid])
    return devices[0] if len(devices) == 1 else None


def case_of(text: str) -> Case:
    """A case as the data has it: ``"bert-base full 16x512 amp task=masked-lm"``."""
    model, method, shape, *words = text.split()
    rows, length = shape.split("x")
    fields: dict[str, Any] = {"execution": {}}
    for word in words:
        name, _, value = word.partition("=")
        if value:
            fields[name] = value if name == "task" else json.loads(value)
        elif word in _data()["knobs"]:
            fields["knobs"] = _data()["knobs"][word]
        else:
            fields["execution"] |= _data()["switches"][word]
    return Case(model, method, int(rows), int(length), **fields)


@cache
def _data() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GRIDS_FILE.read_text(encoding="utf-8"))
    return content


def _listed(names: Iterable[str]) -> list[Case]:
    return [case_of(text) for name in names for text in _data()["cases"][name]]
