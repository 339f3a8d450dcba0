"""How far a memory figure may be off: independent sources, added in quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

from advisor.core.cost import Interval, MemoryBreakdown
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
