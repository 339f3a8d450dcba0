"""Fine-tuning advisor: predicts memory, time and quality of every strategy; recommends, tunes, runs and verifies one.

The jobs are functions: ``from advisor import probe, calibrate, predict, recommend, tune, run, validate``. They
are imported on first use, so that ``import advisor`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.pipeline import calibrate, predict, probe, recommend, run, tune, validate

__version__ = "0.1.0"
__all__ = ["__version__", "calibrate", "predict", "probe", "recommend", "run", "tune", "validate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("advisor.pipeline"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
