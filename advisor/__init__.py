"""Fine-tuning advisor: predicts memory, time and quality of every strategy; recommends, tunes, runs and verifies one.

The jobs are functions, and what they take has a class::

    from advisor import probe, calibrate, predict, fit, recommend, tune, run, evaluate, compare, validate, bench
    from advisor import Budget, DataSource, ExecutionPlan, ModelSource, Plan, SpeedKnobs, StrategyConfig

They are imported on first use, so that ``import advisor`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.core.budget import Budget
    from advisor.core.plan import ExecutionPlan, Plan
    from advisor.core.strategy import StrategyConfig
    from advisor.pipeline import (
        DataSource,
        ModelSource,
        SpeedKnobs,
        bench,
        calibrate,
        compare,
        evaluate,
        fit,
        predict,
        probe,
        recommend,
        run,
        tune,
        validate,
    )

__version__ = "0.1.0"
__all__ = [
    "Budget",
    "DataSource",
    "ExecutionPlan",
    "ModelSource",
    "Plan",
    "SpeedKnobs",
    "StrategyConfig",
    "__version__",
    "bench",
    "calibrate",
    "compare",
    "evaluate",
    "fit",
    "predict",
    "probe",
    "recommend",
    "run",
    "tune",
    "validate",
]

_HOMES = {
    "Budget": "advisor.core.budget",
    "ExecutionPlan": "advisor.core.plan",
    "Plan": "advisor.core.plan",
    "StrategyConfig": "advisor.core.strategy",
}
"""Modules of what is not a job of ``advisor.pipeline``."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "advisor.pipeline")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
