"""A made-up machine, its points and calibrations, for the tests of what is around a calibration."""

from __future__ import annotations

import dataclasses

from advisor.calibration.cross_validation import refit
from advisor.calibration.plan import BenchmarkCase
from advisor.core.coefficients import Calibration, Contribution, ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile, Rate
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.time.operator_times import execution_key
from advisor.hardware.versions import current_versions

DEVICE = DeviceProfile(
    "cpu-x-2c",
    "a made-up machine",
    "cpu",
    2**34,
    basis="measured",
    flops_per_s={"float32": Rate(5e10, "probed")},
    bytes_per_s={"memory": Rate(1e10, "probed")},
    launch_s=5e-6,
    facts={"cores": "2 (2 in the affinity mask)"},
)
MODEL_KEY = "bert/sequence-classification/384x6/30522"


def replays(slower: float = 1.0) -> list[ReplayPoint]:
    """Twelve matrix products at 100 GFLOP/s and 20 GB/s, 20 us a call."""
    return [
        ReplayPoint(
            "mm.default",
            "gemm/float32/mm",
            2**exponent * 600,
            2**exponent * 4,
            slower * (20e-6 + 2**exponent * 600 / 1e11 + 2**exponent * 4 / 2e10),
            0.01,
        )
        for exponent in range(10, 22)
    ]


def item(method: str = "lora", rows: int = 8, length: int = 64, evaluated: bool = False) -> BenchmarkCase:
    """A case of a plan."""
    execution = ExecutionPlan(rows, max_seq_length=length)
    return BenchmarkCase(StrategyConfig(method, 1e-4), execution, length, evaluated=evaluated)


def step_point(**changes: object) -> StepPoint:
    """Five steps of the item above, 0.1 s each."""
    values: dict[str, object] = {
        "model_key": MODEL_KEY,
        "method": "lora",
        "execution_key": execution_key(item().execution),
        "micro_batch_size": 8,
        "seq_length": 64,
        "step_times_s": (0.1,) * 5,
        "work": (("gemm/float32/mm", 600 * 2**16, 2**18, 200),),
    }
    return StepPoint(**{**values, **changes})  # type: ignore[arg-type]


def calibration(
    points: list[StepPoint] | None = None,
    calls: list[ReplayPoint] | None = None,
    *,
    device: DeviceProfile = DEVICE,
    measured_at: str = "2026-01-01T00:00:00+00:00",
    **changes: object,
) -> Calibration:
    """Fitted to these points, measured by one machine."""
    used_points = points if points is not None else [step_point(), step_point(method="full", step_times_s=(0.15,) * 5)]
    used_calls = calls if calls is not None else replays()
    entry = Contribution(measured_at, "0.1.0", {"device": device.name}, len(used_calls), len(used_points))
    raw = Calibration(
        device.id,
        current_versions(device),
        "",
        {},
        replays=tuple(used_calls),
        points=tuple(used_points),
        provenance=(entry,),
        seconds=30.0,
    )
    return dataclasses.replace(refit(device, raw), **changes)  # type: ignore[arg-type]
