"""Step time: accumulation, intervals that grow with distance, bases and evidence."""

from __future__ import annotations

import dataclasses
import math

import pytest

from advisor.core.coefficients import Calibration, ClassFit, StepFit, StepPoint, StepSpread
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import InputError
from advisor.costmodel.time.operator_times import OperatorClock, OperatorSeconds
from advisor.costmodel.time.step import USUAL_HOST_S, StepConditions, optimizer_step, phase_seconds, step_time
from advisor.hardware import load_profile
from advisor.hardware.backends import get_backend
from advisor.tracing.ops import TracedOp

PROBED = DeviceProfile(
    "cpu-x-2c", "x", "cpu", 2**34, flops_per_s={"float32": Rate(1e11, "probed")},
    bytes_per_s={"memory": Rate(1e10, "probed")}, launch_s=5e-6, basis="measured",
)  # fmt: skip
FIT = ClassFit(2e-6, 1e-11, 1e-10, 1e-10, 2**62, 20, 0.05, 10**10, 10**8)
POINT = StepPoint(
    "bert/384x6", "lora", "plain", 16, 64, (0.5, 0.51, 0.49, 0.5), (("gemm/float32/mm", 10**9, 10**6, 40),)
)
CALIBRATED = Calibration(
    "cpu-x-2c", {}, "", {"gemm/float32": FIT}, step=StepFit(1.2, 1e-5, 0.04, 0.01, 6), points=(POINT,)
)
NEAR = StepConditions("bert/384x6", "lora", "plain", 16 * 64)


def op(phase: str, flops: int = 10**9) -> TracedOp:
    return TracedOp("mm.default", phase, flops, 10**6, 10**6, "float32")  # type: ignore[arg-type]


def relative_width(step: object) -> float:
    return (step.high - step.low) / step.seconds  # type: ignore[attr-defined]


def test_further_micro_batches_are_added() -> None:
    clock = OperatorClock(PROBED)
    plain = phase_seconds([op("forward"), op("backward"), op("optimizer"), op("evaluation")], clock)
    one = optimizer_step(plain, 1)
    four = optimizer_step(plain, 4)
    assert one.operators == 3, "evaluation is no part of a step"
    assert four.operators == 4 * 2 + 1
    accumulated = phase_seconds(
        [op("first_forward", 10**8), op("first_backward", 10**8), op("forward"), op("backward"), op("optimizer")], clock
    )
    first_is_lighter = optimizer_step(accumulated, 4)
    assert first_is_lighter.operators == 9
    assert first_is_lighter.device_s < four.device_s


def test_a_calibrated_step() -> None:
    work = OperatorSeconds(0.4, 1000)
    step = step_time(work, PROBED, CALIBRATED, NEAR)
    assert step.seconds == pytest.approx(1.2 * 0.4 + 1000 * 1e-5)
    assert step.low < step.seconds < step.high
    assert (step.basis, step.evidence) == ("calibrated", "interpolated")


def test_the_models_own_ratio_is_used() -> None:
    own = dataclasses.replace(CALIBRATED, model_ratios={"bert/384x6": 1.1})
    work = OperatorSeconds(0.4, 1000)
    assert step_time(work, PROBED, own, NEAR).seconds == pytest.approx(
        1.1 * step_time(work, PROBED, CALIBRATED, NEAR).seconds
    )
    other = dataclasses.replace(NEAR, model_key="bert/768x12")
    assert step_time(work, PROBED, own, other).seconds == step_time(work, PROBED, CALIBRATED, other).seconds


def test_the_interval_widens_with_distance() -> None:
    work = OperatorSeconds(0.4, 1000)
    near = step_time(work, PROBED, CALIBRATED, NEAR)
    long = step_time(work, PROBED, CALIBRATED, dataclasses.replace(NEAR, tokens_per_micro_batch=16 * 1024))
    other = step_time(work, PROBED, CALIBRATED, dataclasses.replace(NEAR, model_key="llama/2048x16"))
    uncovered = step_time(dataclasses.replace(work, uncovered_s=0.2), PROBED, CALIBRATED, NEAR)
    for far in (long, other, uncovered):
        assert relative_width(far) > relative_width(near)
        assert far.evidence == "extrapolated"
    assert long.basis == "calibrated"


def test_the_interval_is_never_narrower_than_the_repeat_noise() -> None:
    noisy = dataclasses.replace(CALIBRATED, step=StepFit(1.2, 1e-5, 0.001, 0.08, 30))
    step = step_time(OperatorSeconds(0.4, 1000), PROBED, noisy, NEAR)
    assert step.high / step.seconds - 1 > 1.6 * 0.08


def test_launching_is_known_worse_than_computing() -> None:
    spread = StepSpread(0.03, 0.4)
    told = dataclasses.replace(CALIBRATED, step=StepFit(1.2, 1e-5, 0.1, 0.01, 30, residual=spread))
    long = step_time(OperatorSeconds(4.0, 1000), PROBED, told, NEAR)
    short = step_time(OperatorSeconds(0.04, 1000), PROBED, told, NEAR)
    assert long.high / long.seconds - 1 == pytest.approx(1.7 * 0.03, rel=0.05)
    launching = 1000 * USUAL_HOST_S / short.seconds
    assert short.high / short.seconds - 1 == pytest.approx(1.7 * math.hypot(0.03, 0.4 * launching), rel=0.05)
    stranger = dataclasses.replace(NEAR, model_key="llama/2048x16")
    elsewhere = dataclasses.replace(told, step=dataclasses.replace(told.step, transfer_relative=0.2, transfer=spread))
    assert relative_width(step_time(OperatorSeconds(4.0, 1000), PROBED, elsewhere, stranger)) == relative_width(long)


def test_few_points_mean_a_wide_interval() -> None:
    few = dataclasses.replace(CALIBRATED, step=StepFit(1.2, 1e-5, 0.04, 0.01, 3))
    many = dataclasses.replace(CALIBRATED, step=StepFit(1.2, 1e-5, 0.04, 0.01, 20))
    work = OperatorSeconds(0.4, 1000)
    assert relative_width(step_time(work, PROBED, few, NEAR)) > 1.3 * relative_width(
        step_time(work, PROBED, many, NEAR)
    )


def test_without_calibration_the_interval_is_wide_and_says_so() -> None:
    step = step_time([op("forward")] * 100, PROBED)
    assert (step.basis, step.evidence) == ("transferred", "extrapolated")
    assert step.high / step.low > 2.5


def test_a_datasheet_step_is_labelled() -> None:
    card = load_profile("a100-sxm4-80gb")
    device_bound = step_time(OperatorSeconds(2.0, 1000), card)
    assert (device_bound.basis, device_bound.evidence, device_bound.host_bound) == ("datasheet", "extrapolated", False)
    assert device_bound.seconds == pytest.approx(2.0, rel=0.01)
    host_bound = step_time(OperatorSeconds(0.001, 4000), card)
    assert host_bound.host_bound
    assert host_bound.seconds == pytest.approx(4000 * get_backend("cuda").overhead.host_s_per_operator, rel=0.01)
    assert relative_width(host_bound) > relative_width(device_bound)
    both = step_time(OperatorSeconds(0.1, 4000), card)
    assert 0.1 < both.seconds < 0.2


def test_a_datasheet_of_another_generation_is_less_certain() -> None:
    checked, other = (step_time(OperatorSeconds(2.0, 1000), load_profile(name)) for name in ("a100-pcie-40gb", "l4"))
    assert relative_width(other) > 1.8 * relative_width(checked)


def test_a_profile_without_rates_cannot_predict() -> None:
    bare = DeviceProfile("cpu-bare-1c", "bare", "cpu", 2**30, basis="measured")
    with pytest.raises(InputError, match=r"flops_per_s.*has neither") as failure:
        step_time([op("forward")], bare)
    assert "advisor probe" in (failure.value.fix or "")
    half = dataclasses.replace(bare, bytes_per_s={"memory": Rate(1e10, "probed")})
    with pytest.raises(InputError, match=r"has bytes_per_s\.memory"):
        step_time([op("forward")], half)
