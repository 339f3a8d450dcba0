"""What a card reaches of its datasheet, from a handful of measured steps.

Four numbers are fitted: the shares of matrix rate, attention and bandwidth, and the host's time per operator. A
prior around what is assumed without the steps regularizes each, so that even three steps are a fair correction. The
result is a device profile whose rates are what kernels reach; it is stored beside the datasheet
(``hardware.profiles``), and every command predicts from it.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import InputError
from advisor.core.stats import NORMAL_95, t_quantile_95
from advisor.core.units import counted
from advisor.costmodel.time.device_rates import ATTENTION_CLASSES, Efficiencies, datasheet_efficiencies, sustained_rates
from advisor.costmodel.time.operator_times import OperatorClock, OperatorSeconds
from advisor.costmodel.time.step import (
    DEVICE_FACTOR,
    HOST_RATE_KEY,
    optimizer_step,
    side_by_side,
)
from advisor.hardware.backends import backend_of
from advisor.tracing.ops import TracedOp, op_class

PRIOR_SIGMA = (0.10, 0.20, 0.20, 0.70)
"""Relative standard deviations of gemm, attention, bandwidth and host time around what is assumed. Matrix kernels are
the best known; public A100 hosts differ by a factor of 2.3 (``OverheadTraits.host_s_per_operator``)."""
NOISE = 0.04
"""Relative standard deviation of one measured step: public repeats of the same configuration differ by 3 % in the
median and 9 % in one case of ten (LLMFineTuningBench)."""
ENOUGH_STEPS = 3
"""With fewer the residuals do not show the error, and the interval stays that of an unchecked datasheet."""
OUTLIER = 2.0
"""Residuals beyond this many standard deviations pull with constant force (Huber 1964)."""
ITERATIONS = 12
STEP = 1e-3
"""Relative step of the numerical derivatives."""

Vector = npt.NDArray[np.float64]


def fit_works(works: Sequence[StepWork], device: DeviceProfile) -> Efficiencies:
    """Fit the efficiencies to measured steps (ridge regression of log ratios, robust against outliers)."""
    start = _values(assumed_efficiencies(device))
    measured = np.log([work.seconds for work in works])

    def residuals(x: Vector) -> Vector:
        values = _efficiencies(start * np.exp(x))
        predicted = [work.step_s(values) for work in works]
        return np.asarray((np.log(predicted) - measured) / NOISE, dtype=np.float64)

    stiffness = 1 / np.array(PRIOR_SIGMA)
    x, jacobian = _ridge(residuals, stiffness)
    left = residuals(x) * NOISE
    freedom = max(1.0, len(works) - len(x) / 2)
    spread = max(math.sqrt(float(left @ left) / freedom), NOISE)
    device_relative, host_relative = _deviations(jacobian * NOISE, spread, stiffness)
    unseen = unseen_relative(spread, len(works))
    return dataclasses.replace(
        _efficiencies(start * np.exp(x)),
        samples=len(works),
        residual_relative=spread,
        device_relative=max(unseen, device_relative),
        host_relative=max(unseen, host_relative),
    )


def unseen_relative(spread: float, samples: int) -> float:
    """Standard deviation of the error to expect of a step that was not measured: Student's t, as a normal one's."""
    from_residuals = spread * t_quantile_95(samples - 1) / NORMAL_95
    return (
        from_residuals if samples >= ENOUGH_STEPS else max(from_residuals, (DEVICE_FACTOR["unchecked"] - 1) / NORMAL_95)
    )


def assumed_efficiencies(device: DeviceProfile) -> Efficiencies:
    """What a card is predicted with that nobody measured, the host's time included."""
    host_s = backend_of(device).overhead.host_s_per_operator
    return dataclasses.replace(datasheet_efficiencies(device), host_s_per_operator=host_s)


def fitted_profile(device: DeviceProfile, efficiencies: Efficiencies) -> DeviceProfile:
    """The device with rates that its kernels reach; predictions from it have the basis ``"transferred"``.

    Args:
        device: A datasheet profile.
        efficiencies: Fitted for it.
    """
    samples = efficiencies.samples
    reached = f"fitted to {counted(samples, 'measured step')}"

    def scaled(rate: Rate, share: float) -> Rate:
        return Rate(rate.value * share, f"{share:.2f} of {rate.source}; {reached}", efficiencies.device_relative)

    rates = sustained_rates(device)
    matrix = {key: scaled(rate, efficiencies.gemm) for key, rate in rates.items()}
    half = rates.get("bfloat16") or rates.get("float16")
    for kind in ("attention", "attention_backward"):
        for kernel in ("flash", "efficient"):
            if half is not None:
                matrix[f"{kind}/{kernel}"] = scaled(half, efficiencies.attention)
            if "float32" in rates:
                matrix[f"{kind}/{kernel}/float32"] = scaled(rates["float32"], efficiencies.attention)
    memory = scaled(device.bytes_per_s["memory"], efficiencies.bandwidth)
    return dataclasses.replace(
        device,
        flops_per_s=matrix,
        bytes_per_s={**device.bytes_per_s, "memory": memory},
        overhead_s={
            **device.overhead_s,
            HOST_RATE_KEY: Rate(efficiencies.host_s_per_operator, reached, efficiencies.host_relative),
        },
        basis="fitted",
    )


def check_fittable(seconds: Sequence[float], device: DeviceProfile) -> None:
    """Refuse what cannot be fitted.

    Args:
        seconds: Of the measured steps.
        device: Whose datasheet is to be corrected.

    Raises:
        InputError: no steps, a time that is not positive, or a profile that holds no datasheet rates.
    """
    if not seconds or min(seconds) <= 0:
        raise InputError(
            f"efficiencies need at least one step of positive time, but got {list(seconds)}",
            fix="measure a few steps that differ in method and length",
        )
    if device.basis != "datasheet" or "memory" not in device.bytes_per_s or not device.flops_per_s:
        raise InputError(
            f"efficiencies are shares of a datasheet's rates, but the profile of {device.id} is {device.basis}"
            + ("" if device.basis != "datasheet" else " without matrix rates or bandwidth"),
            fix="name a datasheet profile (`advisor devices`)",
        )


def _values(efficiencies: Efficiencies) -> Vector:
    return np.array(
        [efficiencies.gemm, efficiencies.attention, efficiencies.bandwidth, efficiencies.host_s_per_operator],
        dtype=np.float64,
    )


def _efficiencies(values: Vector) -> Efficiencies:
    gemm, attention, bandwidth, host_s = (float(value) for value in values)
    return Efficiencies(gemm, attention, bandwidth, host_s)


def _deviations(elasticities: Vector, spread: float, stiffness: Vector) -> tuple[float, float]:
    """Relative standard deviations of the device's and the host's time, given the steps and what is assumed without."""
    covariance = np.linalg.inv(elasticities.T @ elasticities / spread**2 + np.diag(stiffness**2))
    shares, host = covariance[:3, :3], math.sqrt(float(covariance[3, 3]))
    of_device = elasticities[np.abs(elasticities[:, :3].sum(axis=1)) > STEP, :3]
    if not len(of_device):  # every step waits for the host
        return math.sqrt(float(np.diag(shares).max())), host
    composition = of_device / of_device.sum(axis=1, keepdims=True)
    variances = ((composition @ shares) * composition).sum(axis=1)
    return math.sqrt(float(variances.mean())), host


def _ridge(residuals: Callable[[Vector], Vector], stiffness: Vector) -> tuple[Vector, Vector]:
    """Gauss-Newton from 0 with Huber weights; ``stiffness`` holds each parameter to 0."""
    x = np.zeros(len(stiffness))
    weighted = np.zeros((len(residuals(x)), len(stiffness)))
    for _ in range(ITERATIONS):
        now = residuals(x)
        jacobian = np.stack([(residuals(x + STEP * unit) - now) / STEP for unit in np.eye(len(x))], axis=1)
        weights = np.minimum(1.0, OUTLIER / np.maximum(np.abs(now), 1e-12))
        weighted = np.sqrt(weights)[:, None] * jacobian
        gradient = jacobian.T @ (weights * now) + stiffness**2 * x
        change = np.linalg.solve(weighted.T @ weighted + np.diag(stiffness**2), gradient)
        x = x - np.clip(change, -0.5, 0.5)
        if np.abs(change).max() < STEP:
            break
    return np.asarray(x, dtype=np.float64), np.asarray(weighted, dtype=np.float64)


# --------------------
# Measured steps, and their work in a form on which any efficiencies can be tried quickly.

_ALONE = {
    "launch": Efficiencies(math.inf, math.inf, math.inf),
    "arithmetic": Efficiencies(1.0, 1.0, math.inf),
    "traffic": Efficiencies(math.inf, math.inf, 1.0),
}
"""Efficiencies under which an operator takes as long as launching it, and that plus its arithmetic or traffic."""

SMALL = 1e-4
"""Relative step of a numerical derivative."""


@dataclass(frozen=True)
class TimedStep:
    """One measured configuration.

    Attributes:
        operators: Of the traced step, as ``StepFamily.operators`` gives them.
        seconds: Wall clock of one optimizer step.
        gradient_accumulation_steps: Micro-batches in it.
        tf32: Products of float32 tensors used TensorFloat-32.
    """

    operators: tuple[TracedOp, ...]
    seconds: float
    gradient_accumulation_steps: int = 1
    tf32: bool = False


class StepWork:
    """A measured step, boiled down to what ``step_seconds`` depends on: some 10,000 evaluations a fit takes.

    An operator takes its launch plus the slower of arithmetic and traffic (``time.rates``), each of which is inversely
    proportional to a share; so the two at a share of 1 suffice.

    Attributes:
        seconds: As measured.
    """

    def __init__(self, step: TimedStep, device: DeviceProfile) -> None:
        self.seconds = step.seconds
        self._device = device
        self._micro_batches = step.gradient_accumulation_steps
        clocks = {what: OperatorClock(device, tf32=step.tf32, efficiencies=alone) for what, alone in _ALONE.items()}
        self._phases: dict[str, _Phase] = {
            name: _Phase([op for op in step.operators if op.phase == name], clocks)
            for name in dict.fromkeys(op.phase for op in step.operators)
        }

    def step_s(self, efficiencies: Efficiencies) -> float:
        """The same as ``step_seconds``."""
        return _wall_s(self._total(efficiencies), efficiencies, self._device)

    def device_share(self, efficiencies: Efficiencies) -> float:
        """Relative change of the step's time over that of the device's time; the host decides the remainder."""
        total = self._total(efficiencies)
        wall_s = _wall_s(total, efficiencies, self._device)
        longer = dataclasses.replace(total, device_s=total.device_s * (1 + SMALL))
        return (_wall_s(longer, efficiencies, self._device) / wall_s - 1) / SMALL

    def _total(self, efficiencies: Efficiencies) -> OperatorSeconds:
        phases = {name: phase.total(efficiencies) for name, phase in self._phases.items()}
        return optimizer_step(phases, self._micro_batches)


class _Phase:
    """The operators of one phase of a step as columns."""

    def __init__(self, operators: Sequence[TracedOp], clocks: dict[str, OperatorClock]) -> None:
        def column(what: str) -> npt.NDArray[np.float64]:
            return clocks[what].seconds_each(operators)

        self._launch_s = column("launch")
        self._arithmetic_s = column("arithmetic") - self._launch_s
        self._traffic_s = column("traffic") - self._launch_s
        self._attention = np.array([op_class(op) in ATTENTION_CLASSES for op in operators], dtype=bool)
        self._counts = np.array([op.count for op in operators], dtype=np.float64)

    def total(self, efficiencies: Efficiencies) -> OperatorSeconds:
        share = np.where(self._attention, efficiencies.attention, efficiencies.gemm)
        slower_s = np.maximum(self._arithmetic_s / share, self._traffic_s / efficiencies.bandwidth)
        device_s = float((self._launch_s + slower_s) @ self._counts)
        return OperatorSeconds(device_s, float(self._counts.sum()))


def _wall_s(total: OperatorSeconds, efficiencies: Efficiencies, device: DeviceProfile) -> float:
    host_s = total.operators * efficiencies.host_s_per_operator
    return side_by_side(host_s, total.device_s, backend_of(device).overhead.overlap_power)


# --------------------
# Cross-validation: the fit's error on steps that it did not see.


@dataclass(frozen=True)
class FitErrors:
    """Of predicted against measured step times: absolute relative errors.

    Attributes:
        median: The middle one.
        worst: The largest.
    """

    median: float
    worst: float


@dataclass(frozen=True)
class FittedStep:
    """A measured step and what is predicted for it.

    Attributes:
        measured_s: Wall clock of one optimizer step.
        datasheet_s: From the datasheet and the shares of it that are assumed.
        fitted_s: After the fit to all steps, this one included.
        held_back_s: After a fit to all the others; ``None`` for a single step.
    """

    measured_s: float
    datasheet_s: float
    fitted_s: float
    held_back_s: float | None


@dataclass(frozen=True)
class DatasheetFit:
    """A datasheet fitted to measured steps.

    Attributes:
        assumed: Shares of the datasheet's rates before.
        fitted: Shares now; ``device_relative`` and ``host_relative`` cover the errors of cross-validation.
        steps: One by one.
        datasheet: Errors without the fit.
        held_back: Of cross-validation, each step predicted from a fit to the others; ``None`` for a single step.
    """

    assumed: Efficiencies
    fitted: Efficiencies
    steps: tuple[FittedStep, ...]
    datasheet: FitErrors
    held_back: FitErrors | None


@dataclass(frozen=True)
class DatasheetReport:
    """A fit as it is stored.

    Attributes:
        device: As commands use it from now on.
        path: Of the file; without it the datasheet is as before.
        labels: What the steps were, in the order of ``fit.steps``.
        fit: The shares, and the errors of the steps.
        notes: What the user should know about them.
    """

    device: DeviceProfile
    path: Path
    labels: tuple[str, ...]
    fit: DatasheetFit
    notes: tuple[str, ...]


def fit_datasheet(steps: Sequence[TimedStep], device: DeviceProfile) -> DatasheetFit:
    """Fit the efficiencies of a datasheet, and again without each of the steps in turn.

    Args:
        steps: At least one; ten that differ in method and tokens are plenty.
        device: Its datasheet profile, not one that was fitted before.

    Raises:
        InputError: no steps, a time that is not positive, or a profile that holds no datasheet rates.
    """
    check_fittable([step.seconds for step in steps], device)
    works = [StepWork(step, device) for step in steps]
    assumed, fitted = assumed_efficiencies(device), fit_works(works, device)
    held_back_s = _held_back(works, device)
    compared = tuple(
        FittedStep(
            measured_s=work.seconds,
            datasheet_s=work.step_s(assumed),
            fitted_s=work.step_s(fitted),
            held_back_s=held_back_s[number] if held_back_s else None,
        )
        for number, work in enumerate(works)
    )
    measured_s = [work.seconds for work in works]
    return DatasheetFit(
        assumed=assumed,
        fitted=_as_sure_as(fitted, works, held_back_s),
        steps=compared,
        datasheet=_errors([step.datasheet_s for step in compared], measured_s),
        held_back=_errors(held_back_s, measured_s) if held_back_s else None,
    )


def _held_back(works: Sequence[StepWork], device: DeviceProfile) -> list[float]:
    """Each step predicted from a fit to the others; nothing for a single step."""
    if len(works) < 2:
        return []
    return [work.step_s(fit_works([other for other in works if other is not work], device)) for work in works]


def _as_sure_as(fitted: Efficiencies, works: Sequence[StepWork], held_back_s: Sequence[float]) -> Efficiencies:
    """With deviations no smaller than those of cross-validation: every error counts for the device by the part of the
    step that the device decides, and for the host by the remainder.
    """
    if not held_back_s:
        return fitted
    squares = [math.log(held_s / work.seconds) ** 2 for work, held_s in zip(works, held_back_s, strict=True)]
    shares = [work.device_share(fitted) for work in works]
    device = _unseen(squares, shares)
    host = _unseen(squares, [1 - share for share in shares])
    return dataclasses.replace(
        fitted,
        device_relative=max(fitted.device_relative, device),
        host_relative=max(fitted.host_relative, host),
    )


def _unseen(squares: Sequence[float], weights: Sequence[float]) -> float:
    """Deviation to expect from the weighted squares of errors; 0 where not even one whole step stands behind them."""
    if sum(weights) < 1:
        return 0.0
    mean = sum(square * weight for square, weight in zip(squares, weights, strict=True)) / sum(weights)
    return unseen_relative(math.sqrt(mean), len(squares))


def _errors(predicted_s: Sequence[float], measured_s: Sequence[float]) -> FitErrors:
    off = [abs(guess_s / seconds - 1) for guess_s, seconds in zip(predicted_s, measured_s, strict=True)]
    return FitErrors(statistics.median(off), max(off))
