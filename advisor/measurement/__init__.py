"""One run, or a few steps, in a process of its own: times, memory, metrics and typed outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.measurement.isolation import Result, isolated
    from advisor.measurement.run import measure_run
    from advisor.measurement.step_profile import ProfiledStep
    from advisor.measurement.steps import StepMeasurement, StepRequest, measure_steps, profile_step_memory

_HOMES = {
    "Result": "isolation",
    "isolated": "isolation",
    "measure_run": "run",
    "ProfiledStep": "step_profile",
    "StepMeasurement": "steps",
    "StepRequest": "steps",
    "measure_steps": "steps",
    "profile_step_memory": "steps",
}

__all__ = [
    "ProfiledStep",
    "Result",
    "StepMeasurement",
    "StepRequest",
    "isolated",
    "measure_run",
    "measure_steps",
    "profile_step_memory",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that asking for one thing does not import torch for another."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
