"""On a CUDA card: allocated, reserved, what the whole process takes, and the least it needs.

``allocated`` is the traced peak in the allocator's blocks, with the cuBLAS workspaces; ``reserved`` what the caching
allocator holds after a short history of batches, replayed at full depth and bounded by the card; ``device`` adds the
CUDA context. ``required`` is the least the card must have: where memory ends the allocator gives cached segments back,
so only what lies in segments with a live block counts.

Three sources of error are kept apart and added in quadrature: the trace, the allocator's model, and the context.
"""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.cost import Basis, MemoryEstimate
from advisor.core.device import DeviceProfile
from advisor.costmodel.allocator import LARGE_SEGMENT_BYTES
from advisor.costmodel.depth import StepFamily
from advisor.costmodel.memory.breakdown import breakdown
from advisor.costmodel.memory.history import RunShapes
from advisor.costmodel.memory.replay import Holdings, Workspaces, holdings, schedule
from advisor.costmodel.memory.uncertainty import Spread, interval_around
from advisor.costmodel.memory_curve import Peak
from advisor.costmodel.trace.family import EventLog
from advisor.costmodel.trace.symbolic import Shape

TRACE_HALF_WIDTH = 0.02
"""90 % half width of the allocated peak: full, LoRA and QLoRA runs of a 7B model published for one A100-80GB came out
within 1 %; doubled, because that is one device and one architecture."""
CACHE_HALF_WIDTH = 0.02
"""90 % half width of reserved over allocated bytes when the full depth is replayed, besides one large segment: events
and sizes of the replay equal a full trace's, but the order in which a run loads its weights and meets its lengths is
not known. Orders that were tried (lengths ascending, descending, mixed) differ by up to this much."""
UNREPLAYED_SHARE = 0.06
"""What the allocator holds beyond allocated bytes where nothing was replayed: the median of replayed histories."""
UNREPLAYED_HIGH = 0.22
"""The same in nineteen of twenty replayed histories, besides two large segments."""
SHALLOW_HALF_WIDTH = 0.12
"""90 % half width of reserved over allocated bytes when only a shallow model could be replayed: two depths of six
decoders and encoders differed by up to 11 %."""
CONTEXT_LOW, CONTEXT_HIGH = 0.6, 1.5
"""Factors on a CUDA context whose profile states no interval: it depends on the driver and on which kernels were
loaded."""


@dataclass(frozen=True)
class _Figures:
    """Holdings, and how far ``reserved`` and ``required`` may be off because of the allocator alone."""

    holdings: Holdings
    spread: Spread


def on_cuda(
    live_bytes: int,
    peak: Peak,
    phase: str,
    family: StepFamily,
    shapes: RunShapes,
    device: DeviceProfile,
    *,
    extra_batch_bytes: int = 0,
    host_bytes: int | None = None,
    limit_bytes: int | None = None,
) -> MemoryEstimate:
    """Memory of a run on a CUDA card.

    Args:
        live_bytes: Live storages at the largest moment of the run, without workspaces.
        peak: The same by kind.
        phase: Where that moment is.
        family: Its events are replayed.
        shapes: The history to replay.
        device: Capacity, context, workspace.
        extra_batch_bytes: Micro-batches of a step that the trace has not.
        host_bytes: What the run takes of the host's memory.
        limit_bytes: Where only this limit is asked about: configurations far from it are bounded, not replayed.
    """
    workspaces = Workspaces(
        forward_bytes=device.workspace_bytes * family.multiplies_in("forward"),
        backward_bytes=device.workspace_bytes * family.multiplies_in("backward"),
    )
    allocated = live_bytes + workspaces.total_bytes
    context = _context(device)
    if limit_bytes is not None and _far(allocated, device.context_bytes, limit_bytes):
        figures = _unreplayed(allocated)
    else:
        figures = _replayed(allocated, family, shapes, device, workspaces, extra_batch_bytes)
    held = figures.holdings
    trace = Spread(TRACE_HALF_WIDTH * held.allocated_bytes, TRACE_HALF_WIDTH * held.allocated_bytes)
    device_bytes = held.reserved_bytes + device.context_bytes
    required_bytes = held.required_bytes + device.context_bytes
    basis: Basis = "datasheet" if device.basis == "datasheet" else "transferred"
    return MemoryEstimate(
        allocated_bytes=held.allocated_bytes,
        reserved_bytes=held.reserved_bytes,
        device_bytes=device_bytes,
        breakdown=breakdown(peak, device_bytes, workspaces.total_bytes, device.context_bytes),
        intervals={
            "allocated_bytes": interval_around(held.allocated_bytes, trace),
            "reserved_bytes": interval_around(held.reserved_bytes, trace, figures.spread),
            "device_bytes": interval_around(device_bytes, trace, figures.spread, context),
            "required_bytes": interval_around(required_bytes, trace, figures.spread, context),
        },
        peak_phase=phase,
        evidence="extrapolated",
        basis=basis,
        required_bytes=required_bytes,
        host_bytes=host_bytes,
    )


def _context(device: DeviceProfile) -> Spread:
    low, high = device.context_interval_bytes or (
        CONTEXT_LOW * device.context_bytes,
        CONTEXT_HIGH * device.context_bytes,
    )
    return Spread(max(0.0, device.context_bytes - low), max(0.0, high - device.context_bytes))


def _far(allocated_bytes: int, context_bytes: int, limit_bytes: int) -> bool:
    """Whether the answer is clear without a replay: more than the limit is allocated, or far less could be held."""
    least = allocated_bytes * (1 - 2 * TRACE_HALF_WIDTH)
    most = allocated_bytes * (1 + 2 * UNREPLAYED_HIGH) + 4 * LARGE_SEGMENT_BYTES + CONTEXT_HIGH * context_bytes
    return not least <= limit_bytes <= most


def _unreplayed(allocated_bytes: int) -> _Figures:
    held = round(allocated_bytes * (1 + UNREPLAYED_SHARE))
    spread = Spread(
        held - allocated_bytes, (UNREPLAYED_HIGH - UNREPLAYED_SHARE) * allocated_bytes + 2 * LARGE_SEGMENT_BYTES
    )
    return _Figures(Holdings(allocated_bytes, held, held), spread)


def _replayed(
    allocated_bytes: int,
    family: StepFamily,
    shapes: RunShapes,
    device: DeviceProfile,
    workspaces: Workspaces,
    extra_batch_bytes: int,
) -> _Figures:
    logs = {shape: log for _, shape in shapes.steps() if (log := family.events(shape)) is not None}
    if shapes.training not in logs:
        return _shallow(allocated_bytes, family, shapes, workspaces)
    # What other processes hold now is theirs: torch can have the rest, less its own context.
    capacity = (device.available_bytes or device.memory_bytes) - device.context_bytes
    held = holdings(
        schedule(logs[shapes.training]),
        _sizes(logs),
        shapes,
        workspaces,
        extra_batch_bytes=extra_batch_bytes,
        capacity_bytes=capacity,
    )
    half_width = CACHE_HALF_WIDTH * held.reserved_bytes
    return _Figures(held, Spread(half_width, half_width + LARGE_SEGMENT_BYTES))


def _shallow(allocated_bytes: int, family: StepFamily, shapes: RunShapes, workspaces: Workspaces) -> _Figures:
    """Reserved over allocated bytes of the deepest traced model, carried to the whole one."""
    logs = {shape: family.deepest_events(shape) for _, shape in shapes.steps()}
    held = holdings(schedule(logs[shapes.training]), _sizes(logs), shapes, workspaces)
    reserved = round(allocated_bytes * held.reserved_bytes / held.allocated_bytes)
    required = round(allocated_bytes * held.required_bytes / held.allocated_bytes)
    half_width = SHALLOW_HALF_WIDTH * reserved
    return _Figures(Holdings(allocated_bytes, reserved, required), Spread(half_width, half_width))


def _sizes(logs: dict[Shape, EventLog]) -> dict[Shape, list[int]]:
    return {shape: log.sizes_bytes.tolist() for shape, log in logs.items()}
