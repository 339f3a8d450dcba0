"""Energy of a run: the power that this device's earlier runs took, times the predicted time."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

from advisor.core.cost import Interval
from advisor.core.device import DeviceProfile
from advisor.core.store import user_data_dir, write_text_atomically

RUNS_KEPT = 50
"""Newest runs whose power is remembered for a device."""
FEW_RUNS_SPREAD = 0.25
"""Half width of the 90 % interval of a run's mean power while fewer than ``ENOUGH_RUNS`` were measured: how full a
device is kept differs from run to run."""
ENOUGH_RUNS = 5
IDLE_SHARE = 0.15
"""Where only the power limit is known, a run takes between this share of it (the card idles while the host works: 50 to
100 W of 350 to 700 W on data-centre cards) and all of it."""
WATTS = re.compile(r"(\d+(?:\.\d+)?)\s*W\b")


def remember_power(device_id: str, joules: float, seconds: float) -> None:
    """Keep the mean power of a finished run, for predictions on the same device."""
    if joules > 0 and seconds > 0:
        kept = [*known_watts(device_id), joules / seconds][-RUNS_KEPT:]
        write_text_atomically(_path(device_id), json.dumps({"device_id": device_id, "watts": kept}))


def known_watts(device_id: str) -> list[float]:
    """Mean power of this device's earlier runs, oldest first; a damaged file counts as none."""
    try:
        return [float(value) for value in json.loads(_path(device_id).read_text(encoding="utf-8"))["watts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def predicted_energy(
    device: DeviceProfile, total_s: float, interval: Interval
) -> tuple[float | None, Interval | None, str]:
    """Joules of a run, their 90 % interval, and what they rest on (or why there is no figure).

    Args:
        device: Whose power is looked up.
        total_s: Predicted run time.
        interval: Of the run time.
    """
    if watts := known_watts(device.id):
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


def _path(device_id: str) -> Path:
    return user_data_dir("power") / f"{re.sub(r'[^A-Za-z0-9._-]', '_', device_id)}.json"
