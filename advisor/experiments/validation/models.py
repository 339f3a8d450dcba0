"""The models of the grids: published configurations and small relatives of them, built with random weights."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec, Task

MODELS_FILE = Path(__file__).with_name("models.json")
"""Name -> task, source and configuration; or the name of a relative (``like``) and what differs from it."""


def model_names() -> tuple[str, ...]:
    """All models that a grid may name."""
    return tuple(_entries())


def default_task(name: str) -> Task:
    """Classification for encoders, language modelling for decoders."""
    task: Task = _resolved(name)["task"]
    return task


def grid_model(name: str, task: Task | None = None) -> ModelSpec:
    """One of the grids' models, without weights.

    Args:
        name: As in ``models.json``.
        task: Another head than the model's default.

    Raises:
        InputError: no such model.
    """
    return _inspected(name, task or default_task(name))


def model_configuration(name: str) -> dict[str, Any]:
    """The configuration of one of the grids' models, without importing anything.

    Raises:
        InputError: no such model.
    """
    config: dict[str, Any] = _resolved(name)["config"]
    return config


@cache
def _inspected(name: str, task: Task) -> ModelSpec:
    from advisor.training.models import inspect_model

    with tempfile.TemporaryDirectory(prefix="advisor-grid-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(model_configuration(name)), encoding="utf-8")
        return dataclasses.replace(inspect_model(str(path), task), source=name)


@cache
def _entries() -> dict[str, Any]:
    entries: dict[str, Any] = json.loads(MODELS_FILE.read_text(encoding="utf-8"))
    return entries


def _resolved(name: str) -> dict[str, Any]:
    entries = _entries()
    if name not in entries:
        raise InputError(f"a grid's model must be one of {', '.join(entries)}, but got {name!r}")
    entry = entries[name]
    if "like" not in entry:
        return dict(entry)
    relative = _resolved(entry["like"])
    return {**relative, "config": {**relative["config"], **entry["changes"]}}
