"""How far a memory figure may be off: independent sources, added in quadrature, and the quantile that decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from advisor.core.cost import Interval, MemoryBreakdown, MemoryEstimate
from advisor.tracing.live_memory import Peak

INTERVAL_LEVEL = 0.9
"""Probability that every interval here is meant to hold."""


@dataclass(frozen=True)
class Spread:
    """How far one source may move a figure down and up, in bytes, with probability ``INTERVAL_LEVEL``."""

    down_bytes: float
    up_bytes: float


def interval_around(value_bytes: float, *spreads: Spread) -> Interval:
    """The interval that independent sources leave: their deviations are added in quadrature, each side for itself."""
    down = math.hypot(*(spread.down_bytes for spread in spreads))
    up = math.hypot(*(spread.up_bytes for spread in spreads))
    return Interval(max(0.0, value_bytes - down), value_bytes + up, INTERVAL_LEVEL)


def memory_quantile_bytes(memory: MemoryEstimate, level: float) -> int:
    """What the run needs at most with probability ``level``: the figure that is compared with a memory budget.

    The upper half of the interval is taken as half of a normal distribution.

    Args:
        memory: Its ``required_bytes`` decide, or ``device_bytes`` where nothing can be given back.
        level: The safety level, 0.95 by default (``Budget.safety_level``).
    """
    name = "device_bytes" if memory.required_bytes is None else "required_bytes"
    value = memory.device_bytes if memory.required_bytes is None else memory.required_bytes
    sigma = (memory.intervals[name].high - value) / NormalDist().inv_cdf((1 + INTERVAL_LEVEL) / 2)
    return round(value + NormalDist().inv_cdf(level) * sigma)


# --------------------
# The parts of a device's memory at the peak, from the kinds of live storages.


def breakdown(peak: Peak, device_bytes: int, workspace_bytes: int, context_bytes: int) -> MemoryBreakdown:
    """Parts of the device figure; what the allocator caches or the kernel pages in on top counts as temporaries."""
    weights, states, gradients, activations, temporaries = peak.by_kind
    named = weights + states + gradients + activations + workspace_bytes + context_bytes
    return MemoryBreakdown(
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_states_bytes=states,
        activations_bytes=activations,
        temporaries_bytes=max(device_bytes - named, temporaries),
        workspace_bytes=workspace_bytes,
        context_bytes=context_bytes,
    )
