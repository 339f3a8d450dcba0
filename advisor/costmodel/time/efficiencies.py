"""What a card reaches of its datasheet, from a handful of measured steps.

Four numbers are fitted: the shares of matrix rate, attention and bandwidth, and the host's time per operator. Each is
held to what would be assumed without the steps, so that even three of them are a fair correction. The outcome is
a device profile whose rates are what kernels reach: saved where probed profiles are, every command predicts from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import InputError
from advisor.costmodel.time.rates import Efficiencies, datasheet_efficiencies
from advisor.costmodel.time.step import (
    HOST_RATE_KEY,
    HOST_S_PER_OPERATOR,
    optimizer_step,
    phase_seconds,
    side_by_side,
)
from advisor.costmodel.time.table import OperatorClock, OperatorSeconds
from advisor.costmodel.trace.ops import TracedOp

PRIOR_SIGMA = (0.10, 0.20, 0.20, 0.70)
"""Relative standard deviations of gemm, attention, bandwidth and host time around what is assumed. Matrix kernels are
the best known; public A100 hosts differ by a factor of 2.3 (``HOST_S_PER_OPERATOR``)."""
NOISE = 0.04
"""Relative standard deviation of one measured step: public repeats of the same configuration differ by 3 % in the
median and 9 % in one case of ten (LLMFineTuningBench)."""
OUTLIER = 2.0
"""Residuals beyond this many standard deviations pull with constant force (Huber 1964)."""
ITERATIONS = 12
STEP = 1e-3
"""Relative step of the numerical derivatives."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TimedStep:
    """One measured configuration.

    Attributes:
        operators: Of the traced step, as ``StepFamily.operators`` gives them.
        seconds: Wall clock of one optimizer step.
        gradient_accumulation_steps: Micro-batches in it.
    """

    operators: tuple[TracedOp, ...]
    seconds: float
    gradient_accumulation_steps: int = 1


def fit_efficiencies(steps: Sequence[TimedStep], device: DeviceProfile) -> Efficiencies:
    """Fit the efficiencies to measured steps (ridge regression of log ratios, robust against outliers).

    Args:
        steps: At least one; ten that differ in method and tokens are plenty (``spread_steps``).
        device: Its datasheet profile.

    Raises:
        InputError: no steps, a time that is not positive, or a profile that holds no datasheet rates.
    """
    _check(steps, device)
    assumed = datasheet_efficiencies(device)
    start = np.array(
        [assumed.gemm, assumed.attention, assumed.bandwidth, HOST_S_PER_OPERATOR[device.type]], dtype=np.float64
    )
    measured = np.log([step.seconds for step in steps])

    def residuals(x: Vector) -> Vector:
        values = _efficiencies(start * np.exp(x))
        predicted = [step_seconds(step, device, values) for step in steps]
        return np.asarray((np.log(predicted) - measured) / NOISE, dtype=np.float64)

    x = _ridge(residuals, 1 / np.array(PRIOR_SIGMA))
    left = residuals(x) * NOISE
    freedom = max(1.0, len(steps) - len(x) / 2)
    spread = math.sqrt(float(left @ left) / freedom)
    return dataclasses.replace(
        _efficiencies(start * np.exp(x)), samples=len(steps), residual_relative=max(spread, NOISE)
    )


def step_seconds(step: TimedStep, device: DeviceProfile, efficiencies: Efficiencies) -> float:
    """Time of the step's operators under these efficiencies."""
    total = _total(step, device, efficiencies)
    return side_by_side(total.operators * efficiencies.host_s_per_operator, total.device_s, device.type)


def fitted_profile(device: DeviceProfile, efficiencies: Efficiencies) -> DeviceProfile:
    """The device with rates that its kernels reach; predictions from it have the basis ``"transferred"``.

    Args:
        device: A datasheet profile.
        efficiencies: Fitted for it.
    """
    reached = f"fitted to {efficiencies.samples} measured steps"
    matrix = {key: _scaled(rate, efficiencies.gemm, reached) for key, rate in device.flops_per_s.items()}
    half = device.flops_per_s.get("bfloat16") or device.flops_per_s.get("float16")
    if half is not None:
        attention = _scaled(half, efficiencies.attention, reached)
        matrix |= {"attention/flash": attention, "attention_backward/flash": attention}
    memory = _scaled(device.bytes_per_s["memory"], efficiencies.bandwidth, reached)
    host = Rate(efficiencies.host_s_per_operator, reached, efficiencies.residual_relative)
    return dataclasses.replace(
        device,
        flops_per_s=matrix,
        bytes_per_s={**device.bytes_per_s, "memory": memory},
        overhead_s={**device.overhead_s, HOST_RATE_KEY: host},
        basis="measured",
    )


def spread_steps(steps: Sequence[TimedStep], device: DeviceProfile, number: int) -> list[int]:
    """Which steps to fit on: the most different ones by device time, number of operators and time per operator.

    Greedy: the middle one first, then always the one farthest from those chosen.
    """
    assumed = datasheet_efficiencies(device)
    totals = [_total(step, device, assumed) for step in steps]
    points = np.log([[total.device_s, total.operators] for total in totals])
    points = (points - np.median(points, axis=0)) / np.maximum(points.std(axis=0), 1e-9)
    chosen = [int(np.argmin((points**2).sum(axis=1)))]
    while len(chosen) < min(number, len(steps)):
        distances = ((points[:, None] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        distances[chosen] = -1.0
        chosen.append(int(np.argmax(distances)))
    return chosen


def _check(steps: Sequence[TimedStep], device: DeviceProfile) -> None:
    if not steps or min(step.seconds for step in steps) <= 0:
        raise InputError(
            f"efficiencies need at least one step of positive time, but got {[step.seconds for step in steps]}",
            fix="measure a few steps that differ in method and length",
        )
    if device.basis != "datasheet" or "memory" not in device.bytes_per_s or not device.flops_per_s:
        raise InputError(
            f"efficiencies are shares of a datasheet's rates, but the profile of {device.id} is {device.basis}",
            fix="name a datasheet profile (`advisor devices`)",
        )


def _efficiencies(values: Vector) -> Efficiencies:
    gemm, attention, bandwidth, host_s = (float(value) for value in values)
    return Efficiencies(gemm, attention, bandwidth, host_s)


def _total(step: TimedStep, device: DeviceProfile, efficiencies: Efficiencies) -> OperatorSeconds:
    clock = OperatorClock(device, efficiencies=efficiencies)
    return optimizer_step(phase_seconds(step.operators, clock), step.gradient_accumulation_steps)


def _scaled(rate: Rate, share: float, how: str) -> Rate:
    return Rate(rate.value * share, f"{share:.2f} of {rate.source}; {how}", rate.spread)


def _ridge(residuals: Callable[[Vector], Vector], stiffness: Vector) -> Vector:
    """Gauss-Newton from 0 with Huber weights; ``stiffness`` holds each parameter to 0."""
    x = np.zeros(len(stiffness))
    for _ in range(ITERATIONS):
        now = residuals(x)
        jacobian = np.stack([(residuals(x + STEP * unit) - now) / STEP for unit in np.eye(len(x))], axis=1)
        weights = np.minimum(1.0, OUTLIER / np.maximum(np.abs(now), 1e-12))
        normal = jacobian.T @ (weights[:, None] * jacobian) + np.diag(stiffness**2)
        change = np.linalg.solve(normal, jacobian.T @ (weights * now) + stiffness**2 * x)
        x = x - np.clip(change, -0.5, 0.5)
        if np.abs(change).max() < STEP:
            break
    return np.asarray(x, dtype=np.float64)
