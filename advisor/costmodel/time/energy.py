"""Energy of a run: the power that this device's earlier runs took, times the predicted time."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from advisor.core.cost import Interval
from advisor.core.device import DeviceProfile

FEW_RUNS_SPREAD = 0.25
"""Half width of the 90 % interval of a run's mean power while fewer than ``ENOUGH_RUNS`` were measured: how full a
device is kept differs from run to run."""
ENOUGH_RUNS = 5
IDLE_SHARE = 0.15
"""Where only the power limit is known, a run takes between this share of it (the card idles while the host works: 50 to
100 W of 350 to 700 W on data-centre cards) and all of it."""
WATTS = re.compile(r"(\d+(?:\.\d+)?)\s*W\b")


def predicted_energy(
    device: DeviceProfile, total_s: float, interval: Interval, watts: Sequence[float]
) -> tuple[float | None, Interval | None, str]:
    """Joules of a run, their 90 % interval, and what they rest on (or why there is no figure)."""
    if watts:
        typical = statistics.median(watts)
        spread = FEW_RUNS_SPREAD
        if len(watts) >= ENOUGH_RUNS:
            spread = max(abs(value / typical - 1) for value in watts)
        bounds = Interval(interval.low * typical * (1 - spread), interval.high * typical * (1 + spread))
        return typical * total_s, bounds, f"{typical:.0f} W, measured over {len(watts)} earlier runs on this device"
    limit = power_limit_w(device)
    if limit is not None:
        bounds = Interval(interval.low * limit * IDLE_SHARE, interval.high * limit)
        return limit * total_s, bounds, f"an upper bound: the device's power limit of {limit:.0f} W all the time"
    return None, None, f"no run on {device.id} has measured its power, and its profile states no power limit"


def power_limit_w(device: DeviceProfile) -> float | None:
    """The enforced power limit of a probed GPU, or that of its datasheet."""
    probed = re.match(r"\s*(\d+(?:\.\d+)?)", device.facts.get("power_limit_w", ""))
    if probed:
        return float(probed.group(1))
    stated = WATTS.search(device.facts.get("power_limit", ""))
    return float(stated.group(1)) if stated else None
