"""The jobs, wired in one place: each is a function that takes what a user says and returns a record.

Nothing is imported before it is asked for, so that the command line starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.pipeline.benching import bench
    from advisor.pipeline.calibrating import calibrate
    from advisor.pipeline.comparing import compare
    from advisor.pipeline.doctoring import doctor
    from advisor.pipeline.environment import probe
    from advisor.pipeline.evaluating import evaluate
    from advisor.pipeline.explaining import explain
    from advisor.pipeline.fitting import fit
    from advisor.pipeline.inputs import DataSource, ModelSource
    from advisor.pipeline.method_comparison import bench_methods
    from advisor.pipeline.predicting import configure, configure_plan, predict, predict_configuration
    from advisor.pipeline.profiling import check_takes_steps, profile_methods, profile_plan, profile_run
    from advisor.pipeline.recommending import SpeedKnobs, recommend
    from advisor.pipeline.running import run
    from advisor.pipeline.suites import bench_suite, recorded_suite
    from advisor.pipeline.tuning import tune
    from advisor.pipeline.validating import recorded_validation, validate, validate_runs

_HOMES = {
    "DataSource": "inputs",
    "ModelSource": "inputs",
    "SpeedKnobs": "recommending",
    "bench": "benching",
    "bench_methods": "method_comparison",
    "bench_suite": "suites",
    "calibrate": "calibrating",
    "compare": "comparing",
    "configure": "predicting",
    "configure_plan": "predicting",
    "doctor": "doctoring",
    "evaluate": "evaluating",
    "explain": "explaining",
    "fit": "fitting",
    "predict": "predicting",
    "predict_configuration": "predicting",
    "probe": "environment",
    "check_takes_steps": "profiling",
    "profile_methods": "profiling",
    "profile_plan": "profiling",
    "profile_run": "profiling",
    "recommend": "recommending",
    "recorded_suite": "suites",
    "recorded_validation": "validating",
    "run": "running",
    "tune": "tuning",
    "validate": "validating",
    "validate_runs": "validating",
}

__all__ = [
    "DataSource",
    "ModelSource",
    "SpeedKnobs",
    "bench",
    "bench_methods",
    "bench_suite",
    "calibrate",
    "check_takes_steps",
    "compare",
    "configure",
    "configure_plan",
    "doctor",
    "evaluate",
    "explain",
    "fit",
    "predict",
    "predict_configuration",
    "probe",
    "profile_methods",
    "profile_plan",
    "profile_run",
    "recommend",
    "recorded_suite",
    "recorded_validation",
    "run",
    "tune",
    "validate",
    "validate_runs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from advisor.training.hub import forbid_kernel_downloads

    forbid_kernel_downloads()  # before any job imports transformers, peft or bitsandbytes
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
