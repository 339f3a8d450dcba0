"""From traced operators to the time of an optimizer step, with an interval and its source."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from advisor.core.coefficients import Calibration, StepFit, StepPoint
from advisor.core.cost import Basis, Evidence
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.stats import NORMAL_95, robust_relative_sd, t_quantile_95
from advisor.costmodel.time.operator_times import OperatorClock, OperatorSeconds
from advisor.hardware.backends import backend_of
from advisor.tracing.ops import TracedOp

DEVICE_FACTOR = {"checked": 1.10, "unchecked": 1.35}
"""90 % interval of the device's time from a datasheet alone, as a factor either way. Compute capability 8.0 is checked:
of 182 public A100 steps of 1.8B to 14B decoders nine in ten lie within 1.08, and half of them helped to fit the
efficiencies. Other cards were not checked, so theirs is wider."""
CHECKED_CAPABILITY = (8, 0)
HOST_FACTOR = 2.1
"""The same of the host's time: 25 us against 51 us of the slowest of the three machines."""
HOST_RATE_KEY = "operator_in_step"
"""``DeviceProfile.overhead_s``: host time per operator of real steps (``time.efficiencies``)."""
FITTED_HALF_WIDTH_LEAST = 0.05
"""Least 90 % half width after fitting the efficiencies: ten steps say no more."""
ROOFLINE_LOW, ROOFLINE_HIGH = 0.7, 2.2
"""Interval factors of a probe's rates without a calibration: on CPU a two-ceiling roofline was off by 18 % on average
and low nearly always, because elementwise work of unfused models misses the bandwidth ceiling."""
TRANSFER_SIGMA = 0.14
"""Relative standard deviation added for a model that was not measured where no other model's steps tell how well that
works, and for other versions of the libraries: a class table from MiniLM predicted DistilBERT with 7 % mean error;
doubled, because one pair of models is little evidence."""
USUAL_HOST_S = 25e-6
"""Host time per operator that the host's share of a step is counted with: a unit, not a prediction."""
UNCOVERED_SIGMA = 0.5
"""Relative standard deviation of the share of time that comes from operator classes that were not calibrated."""
SHAPE_SIGMA_PER_DOUBLING = 0.05
"""Relative standard deviation added per doubling of the tokens in a micro-batch beyond the measured range; the class
fits are linear, real kernels are not quite."""


@dataclass(frozen=True)
class StepTime:
    """Predicted wall clock of some work.

    Attributes:
        seconds: Point prediction (median).
        low, high: 90 % interval.
        host_bound: Whether launching operators takes longer than running them.
    """

    seconds: float
    low: float
    high: float
    evidence: Evidence
    basis: Basis
    host_bound: bool = False


@dataclass(frozen=True)
class StepConditions:
    """What is being predicted, to find its distance from what was measured (keys of ``time.keys``)."""

    model_key: str = ""
    method: str = ""
    execution_key: str = ""
    tokens_per_micro_batch: int = 0


def phase_seconds(operators: Iterable[TracedOp], clock: OperatorClock) -> dict[str, OperatorSeconds]:
    """Operator time by phase of the step."""
    phases: dict[str, list[TracedOp]] = {}
    for op in operators:
        phases.setdefault(op.phase, []).append(op)
    return {phase: clock.total(members) for phase, members in phases.items()}


def optimizer_step(phases: Mapping[str, OperatorSeconds], gradient_accumulation_steps: int = 1) -> OperatorSeconds:
    """All operators of one optimizer step: first micro-batch, further micro-batches, update.

    With accumulation the trace holds two micro-batches: the first (no gradients yet) and one that stands for all
    others.
    """
    nothing = OperatorSeconds()
    further = phases.get("forward", nothing) + phases.get("backward", nothing)
    first = phases.get("first_forward", nothing) + phases.get("first_backward", nothing)
    if first.operators == 0:
        first = further
    return first + further * (gradient_accumulation_steps - 1) + phases.get("optimizer", nothing)


def step_time(
    work: OperatorSeconds | Iterable[TracedOp],
    device: DeviceProfile,
    calibration: Calibration | None = None,
    setting: StepConditions | None = None,
    *,
    evaluation: bool = False,
) -> StepTime:
    """Predict the time of some work (an optimizer step, an evaluation pass).

    Args:
        work: Summed operators (``optimizer_step``) or the operators themselves.
        device: Where it will run.
        calibration: Of that device, if there is one.
        setting: What it is, to judge the distance from what was measured.
        evaluation: It is an evaluation pass, without autograd and optimizer.

    Raises:
        InputError: the profile has no rates to predict from.
    """
    clock = OperatorClock(device, calibration)
    if not clock.classes and not clock.knows_rates:
        raise InputError(
            "a step's time needs the device's matrix rates (flops_per_s) and bandwidth (bytes_per_s.memory), but the "
            f"profile of {device.id} has {_rates_present(device)}",
            fix="run `advisor probe` on the device, or add the rates of its datasheet to the profile",
        )
    total = work if isinstance(work, OperatorSeconds) else clock.total(work)
    if calibration is not None and calibration.step is not None:
        fit = calibration.evaluation if evaluation and calibration.evaluation is not None else calibration.step
        return _calibrated(total, fit, calibration, setting or StepConditions())
    return _by_rates(total, device, clock.basis)


def _rates_present(device: DeviceProfile) -> str:
    rates = {"flops_per_s": device.flops_per_s, "bytes_per_s": device.bytes_per_s}
    return " and ".join(f"{field}.{key}" for field, keys in rates.items() for key in keys) or "neither"


def host_share(operators: float, seconds: float) -> float:
    """How much of a step is launching its operators, at ``USUAL_HOST_S`` each; at most all of it."""
    return min(1.0, USUAL_HOST_S * operators / max(seconds, 1e-12))


def side_by_side(host_s: float, device_s: float, power: int) -> float:
    """Wall clock of launching operators and of running them, with ``OverheadTraits.overlap_power``."""
    return float((host_s**power + device_s**power) ** (1 / power))


def fitted_half_width(relative: float) -> float:
    """Half the width of the 90 % interval of predictions by fitted efficiencies with such a standard deviation."""
    return max(NORMAL_95 * relative, FITTED_HALF_WIDTH_LEAST)


def _by_rates(total: OperatorSeconds, device: DeviceProfile, basis: Basis) -> StepTime:
    """Without a calibration: operators by the profile's rates, host time by a published or fitted figure."""
    fitted, overhead = device.overhead_s.get(HOST_RATE_KEY), backend_of(device).overhead
    power = overhead.overlap_power
    host_s = total.operators * (fitted.value if fitted is not None else overhead.host_s_per_operator)
    seconds = side_by_side(host_s, total.device_s, power)
    if fitted is not None:
        spreads = (fitted.spread, device.bytes_per_s["memory"].spread)
        host_factor, factor = (1 + fitted_half_width(spread) for spread in spreads)
    elif basis == "datasheet":
        host_factor = HOST_FACTOR
        factor = DEVICE_FACTOR["checked" if device.compute_capability == CHECKED_CAPABILITY else "unchecked"]
    else:
        low, high = seconds * ROOFLINE_LOW, seconds * ROOFLINE_HIGH
        return StepTime(seconds, low, high, "extrapolated", basis, host_s > total.device_s)
    low = side_by_side(host_s / host_factor, total.device_s / factor, power)
    high = side_by_side(host_s * host_factor, total.device_s * factor, power)
    return StepTime(seconds, low, high, "extrapolated", basis, host_s > total.device_s)


def predicted_seconds(fit: StepFit, device_s: float, operators: float) -> float:
    """A step by its operators, as ``StepFit`` defines it."""
    return side_by_side(fit.host_s_per_operator * operators, fit.factor * device_s, fit.power)


def _calibrated(total: OperatorSeconds, fit: StepFit, calibration: Calibration, setting: StepConditions) -> StepTime:
    same_model = [p for p in calibration.points if p.model_key == setting.model_key]
    own_ratio = calibration.model_ratios.get(setting.model_key, 1.0)
    seconds = own_ratio * predicted_seconds(fit, total.device_s, total.operators)
    distance = _doublings_outside(setting.tokens_per_micro_batch, same_model or list(calibration.points))
    half = t_quantile_95(fit.samples - 1) * math.sqrt(
        _model_variance(fit, host_share(total.operators, seconds), known=bool(same_model))
        * (1 + 1 / max(fit.samples, 1))
        + (SHAPE_SIGMA_PER_DOUBLING * distance) ** 2
        + (UNCOVERED_SIGMA * total.uncovered_s / max(total.device_s, 1e-12)) ** 2
        + (TRANSFER_SIGMA**2 if calibration.transferred else 0.0)
    )
    near = bool(same_model) and distance <= 1 and total.uncovered_s < 0.1 * total.device_s
    evidence: Evidence = "interpolated" if near and not calibration.transferred else "extrapolated"
    basis: Basis = "transferred" if calibration.transferred else "calibrated"
    host_bound = fit.host_s_per_operator * total.operators > fit.factor * total.device_s
    return StepTime(seconds, seconds / (1 + half), seconds * (1 + half), evidence, basis, host_bound)


def _model_variance(fit: StepFit, share: float, *, known: bool) -> float:
    """Of relative errors, as the calibration found it by holding back: single steps, or all steps of a model."""
    own = fit.residual.variance(share) if fit.residual is not None else fit.residual_relative**2
    least = max(own, fit.noise_relative**2)
    if known:
        return least
    if fit.transfer_relative is None:
        return least + TRANSFER_SIGMA**2
    return max(least, fit.transfer.variance(share) if fit.transfer is not None else fit.transfer_relative**2)


def _doublings_outside(tokens: int, points: list[StepPoint]) -> float:
    """How many doublings the micro-batch's tokens lie outside the measured range."""
    measured = [p.micro_batch_size * p.seq_length for p in points]
    if not tokens or not measured:
        return 0.0
    return max(0.0, math.log2(tokens / max(measured)), math.log2(min(measured) / tokens))


# --------------------
# A step that the calibration measured itself needs no prediction.

PROCESS_SIGMA = 0.05
"""Relative standard deviation between processes that take the same steps: over 16 configurations of a quiet machine the
medians of two processes differed by 3.4 % in the median, one pair in ten by 16 %."""


def measured_step(calibration: Calibration | None, configuration: str) -> StepTime | None:
    """The median of the repeats of exactly this configuration and shape; ``None`` where there are none.

    Args:
        calibration: Of the device, made with the versions in use.
        configuration: ``configuration_key`` of what is asked for.
    """
    if calibration is None or calibration.transferred:
        return None
    times = [p.step_times_s for p in calibration.points if p.configuration == configuration]
    if not times:
        return None
    seconds = statistics.median(statistics.median(repeats) for repeats in times)
    noise = max(robust_relative_sd(repeats) for repeats in times)
    sigma = math.hypot(PROCESS_SIGMA, noise) * math.sqrt(1 + 1 / len(times))
    half = t_quantile_95(sum(len(repeats) for repeats in times) - 1) * sigma
    return StepTime(seconds, seconds / (1 + half), seconds * (1 + half), "measured", "measured")
