"""The parts of a device's memory at the peak, from the kinds of live storages."""

from __future__ import annotations

from advisor.core.cost import MemoryBreakdown
from advisor.costmodel.memory_curve import Peak


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
