"""A measured step boiled down to columns takes as long as operator by operator."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.calibration.datasheet import (
    StepWork,
    TimedStep,
    assumed_efficiencies,
    fitted_profile,
)
from advisor.costmodel.time.device_rates import Efficiencies
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import optimizer_step, phase_seconds, step_time
from advisor.hardware import load_profile
from advisor.tracing.ops import TracedOp
from tests.calibration.timed import step_seconds

CARD = load_profile("h100-pcie-80gb", fitted=False)
GEMM = TracedOp("mm.default", "forward", 2 * 10**12, 10**8, 10**8, "float32", count=3)
OPERATORS = (
    GEMM,
    dataclasses.replace(GEMM, phase="first_forward", flops=10**12),
    dataclasses.replace(GEMM, phase="backward", dtype="bfloat16"),
    TracedOp("_flash_attention_forward.causal", "forward", 10**13, 10**7, 10**7, "bfloat16", count=2),
    TracedOp("_scaled_dot_product_efficient_attention.default", "forward", 10**12, 10**7, 10**7, "float16"),
    TracedOp("_scaled_dot_product_efficient_attention_backward.default", "backward", 10**12, 10**7, 10**7, "float32"),
    TracedOp("mul.Tensor", "forward", 0, 10**10, 10**9, "bfloat16", count=80),
    TracedOp("empty.memory_format", "backward", 0, 0, 10**6, "bfloat16", count=9),
    TracedOp("_fused_adamw_.default", "optimizer", 0, 10**10, 10**10, "float32"),
    TracedOp("mm.default", "evaluation", 10**15, 10**10, 10**10, "bfloat16"),
)
STEPS = [
    TimedStep(OPERATORS, 1.0),
    TimedStep(OPERATORS, 1.0, gradient_accumulation_steps=4),
    TimedStep(OPERATORS, 1.0, tf32=True),
    TimedStep(tuple(op for op in OPERATORS if op.phase != "first_forward"), 1.0, 3),
]


@pytest.mark.parametrize("step", STEPS, ids=["plain", "accumulated", "tf32", "alike micro-batches"])
@pytest.mark.parametrize(
    "efficiencies",
    [assumed_efficiencies(CARD), Efficiencies(0.5, 0.9, 0.1, 1e-3), Efficiencies(0.9, 0.1, 0.9)],
    ids=["assumed", "slow host", "slow attention"],
)
def test_columns_and_operators_agree(step: TimedStep, efficiencies: Efficiencies) -> None:
    assert StepWork(step, CARD).step_s(efficiencies) == pytest.approx(step_seconds(step, CARD, efficiencies), rel=1e-9)


def test_tf32_counts() -> None:
    plain, _, tf32, _ = (StepWork(step, CARD).step_s(assumed_efficiencies(CARD)) for step in STEPS)
    assert tf32 < 0.9 * plain


@pytest.mark.parametrize("step", STEPS[:3], ids=["plain", "accumulated", "tf32"])
def test_the_fitted_profile_tells_every_kernel_and_data_type_as_the_fit_does(step: TimedStep) -> None:
    fitted = Efficiencies(0.5, 0.2, 0.3, 40e-6, samples=9)
    profile = fitted_profile(CARD, fitted)
    clock = OperatorClock(profile, tf32=step.tf32)
    work = optimizer_step(phase_seconds(step.operators, clock), step.gradient_accumulation_steps)
    assert step_time(work, profile).seconds == pytest.approx(step_seconds(step, CARD, fitted), rel=1e-9)
