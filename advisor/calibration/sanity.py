"""What a measurement must look like to be believed, and how long a slow machine may take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from advisor.calibration.plan import REFERENCE_FLOPS_PER_S
from advisor.core.coefficients import ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile

JUMP_FACTOR = 100.0
"""A repeat this many times longer or shorter than its siblings did not take that time: the clock jumped, or the machine
was suspended. Real repeats of one step differ by a factor of two on the busiest machines."""
NOISY = 0.15
"""Repeat noise above which a point is measured again when there is a chance to: it moves a predicted step by more than
its own 90 % interval should."""
MOST_PATIENCE = 16.0
"""Beyond this a time-out would no longer end what is stuck within an hour."""


def believable_times(times_s: Iterable[float]) -> tuple[tuple[float, ...], str]:
    """Repeats of one step without those that a jumping clock made, and a sentence when there were such.

    Args:
        times_s: Raw repeats, seconds.
    """
    raw = tuple(times_s)
    positive = [t for t in raw if math.isfinite(t) and t > 0]
    kept = []
    for index, time_s in enumerate(positive):
        others = [*positive[:index], *positive[index + 1 :]]
        sibling_s = statistics.median(others) if others else time_s
        if sibling_s / JUMP_FACTOR <= time_s <= sibling_s * JUMP_FACTOR:
            kept.append(time_s)
    dropped = len(raw) - len(kept)
    if not dropped:
        return raw, ""
    return tuple(kept), (
        f"{dropped} of {len(raw)} step times were dropped: negative, zero or {JUMP_FACTOR:.0f} times off the others,"
        " so the clock jumped or the machine stood still"
    )


def is_believable(point: ReplayPoint | StepPoint) -> bool:
    """Whether all times of a point are positive numbers; those of single operators may be zero, for unknown."""
    if isinstance(point, ReplayPoint):
        return math.isfinite(point.median_s) and point.median_s > 0
    whole_s = (*point.step_times_s, *point.evaluation_times_s)
    parts_s = (*point.work_s, *point.evaluation_work_s)
    positive = bool(point.step_times_s) and all(math.isfinite(t) and t > 0 for t in whole_s)
    return positive and all(math.isfinite(t) and t >= 0 for t in parts_s)


def timeout_scale(device: DeviceProfile, core_quota: float | None = None) -> float:
    """How much longer than usual a measuring process may take here, at least 1.

    Args:
        device: Its probed matrix rate says how slow the machine is.
        core_quota: Cores' worth of time that a cgroup grants; asked of the system when ``None``.
    """
    if core_quota is None:
        from advisor.hardware.host import cpu_quota

        core_quota, _ = cpu_quota()
    slowness = [1.0]
    if core_quota is not None and core_quota > 0:
        slowness.append(1 / core_quota)
    rate = device.flops_per_s.get("float32")
    if rate is not None and rate.value > 0:
        slowness.append(REFERENCE_FLOPS_PER_S / rate.value)
    return min(max(slowness), MOST_PATIENCE)
