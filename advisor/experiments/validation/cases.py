"""The cases of a validation, the grids that list them, small ones first, and their models.

Grids and models are data (``grids.json``, ``models.json``); a model is a published configuration or a small relative of
one, built with random weights.

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
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec, Task
from advisor.experiments.grid import Cell, content_key
from advisor.experiments.validation.records import GridName, Kind

GRIDS_FILE = Path(__file__).with_name("grids.json")
GRIDS: tuple[GridName, ...] = get_args(GridName)
REPEATS = 5
"""Timed steps of a case, of which the median counts."""
MODELS_FILE = Path(__file__).with_name("models.json")
"""Name -> task, source and configuration; or the name of a relative (``like``) and what differs from it."""

_SHORT = {"dtype": "", "amp": "amp ", "attn_implementation": "", "optim": "", "loss": "", "rank": "r="}
"""How a value is written in a label; everything else is written ``name=value``."""


@dataclass(frozen=True)
class Case:
    """One configuration, before anything is known about it.

    Attributes:
        model: Name in ``models.json``.
        method: Registered strategy.
        rows: Micro-batch size; where ``fill`` is given, chosen from the prediction instead.
        length: Padded length in tokens.
        task: Head; the model's own when ``None``.
        knobs: Fields of ``StrategyConfig`` that differ from the method's defaults.
        execution: Fields of ``ExecutionPlan`` that differ from its defaults.
        mixed_lengths: Steps of random lengths before the measured ones and between them, as real text brings.
        fill: Choose as many rows as are predicted to take this share of the device: near its capacity below 1, beyond
            it above 1.
        room: Let the allocator have this share of the memory that is predicted, as on a smaller card (CUDA).
        repeats: Steps that are timed, more of short ones; 0 for a case of memory alone.
        again: 1 for the second measurement of a case, which shows the machine's own repeat noise.
    """

    model: str
    method: str
    rows: int
    length: int
    task: Task | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    mixed_lengths: int = 0
    fill: float | None = None
    room: float | None = None
    repeats: int = 0
    again: int = 0

    @property
    def label(self) -> str:
        """The case in one line: ``"bert-base lora 32x512, amp bf16, gradient_checkpointing"``."""
        shape = f"{self.rows}x{self.length}" if self.fill is None else f"fill {self.fill:.0%} x{self.length}"
        parts = [f"{self.model} {self.method} {shape}"]
        parts += [str(self.task)] if self.task else []
        parts += ["mixed lengths"] if self.mixed_lengths else []
        parts += [f"room {self.room:.0%}"] if self.room is not None else []
        parts += [_spoken(name, value) for name, value in {**self.knobs, **self.execution}.items()]
        parts += ["again"] if self.again else []
        return ", ".join(parts)


def case_key(case: Case) -> str:
    """Content hash of a case and its model's configuration, however often its steps are timed."""
    given = {name: value for name, value in vars(case).items() if value and name != "repeats"}
    return content_key({"config": model_configuration(case.model), **given})


def config_hash(model: str) -> str:
    """Content hash of a model's configuration."""
    return content_key(model_configuration(model))


def model_names() -> tuple[str, ...]:
    """All models that a grid may name."""
    return tuple(_json(MODELS_FILE))


def default_task(name: str) -> Task:
    """The task of a model that a case does not name another one for."""
    task: Task = _resolved(name)["task"]
    return task


@cache
def grid_model(name: str, task: Task | None = None) -> ModelSpec:
    """One of the grids' models, without weights.

    Args:
        name: As in ``models.json``.
        task: Another head than the model's default.

    Raises:
        InputError: no such model.
    """
    from advisor.training.models import inspect_model

    with tempfile.TemporaryDirectory(prefix="advisor-grid-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(model_configuration(name)), encoding="utf-8")
        return dataclasses.replace(inspect_model(str(path), task or default_task(name)), source=name)


def model_configuration(name: str) -> dict[str, Any]:
    """The configuration of one of the grids' models, without importing anything.

    Raises:
        InputError: no such model.
    """
    config: dict[str, Any] = _resolved(name)["config"]
    return config


@cache
def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _resolved(name: str) -> dict[str, Any]:
    entries = _json(MODELS_FILE)
    if name not in entries:
        raise InputError(f"a grid's model must be one of {', '.join(entries)}, but got {name!r}")
    entry = entries[name]
    if "like" not in entry:
        return dict(entry)
    relative = _resolved(entry["like"])
    return {**relative, "config": {**relative["config"], **entry["changes"]}}


def _spoken(name: str, value: Any) -> str:
    if name in _SHORT:
        return f"{_SHORT[name]}{value}"
    if name == "peft_config":
        return str(value.get("peft_type", "")) + (" DoRA" if value.get("use_dora") else "")
    return name if value is True else f"{name}={value}"


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
    lists = _json(GRIDS_FILE)["grids"].get(grid, {}).get(device_type, {"memory": [], "time": []})
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
    devices = list(_json(GRIDS_FILE)["grids"][grid])
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
        elif word in _json(GRIDS_FILE)["knobs"]:
            fields["knobs"] = _json(GRIDS_FILE)["knobs"][word]
        else:
            fields["execution"] |= _json(GRIDS_FILE)["switches"][word]
    return Case(model, method, int(rows), int(length), **fields)


def _listed(names: Iterable[str]) -> list[Case]:
    return [case_of(text) for name in names for text in _json(GRIDS_FILE)["cases"][name]]
