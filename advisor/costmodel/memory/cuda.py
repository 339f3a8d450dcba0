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
from advisor.costmodel.memory.caching_allocator import LARGE_SEGMENT_BYTES
from advisor.costmodel.memory.overheads import host_peak_bytes
from advisor.costmodel.memory.replay import (
    AllocatorPeaks,
    Workspaces,
    holdings,
    replay_version,
    schedule,
    storage_sizes,
)
from advisor.costmodel.memory.traced_run import MemoryBounds, Spread, TracedRun, breakdown, interval_around

TRACE_HALF_WIDTH = 0.015
"""90 % half width of the allocated peak: full, LoRA and QLoRA runs of a 7B model published for one A100-80GB came out
within 1 %, and nine of ten configurations whose requests torch's own allocator was recorded with within 0.1 %
(``calibration/phantom``); half as much again, because kernels of a real card may take memory that neither shows."""
CACHE_HALF_WIDTH = 0.015
"""90 % half width of reserved over allocated bytes when the full depth is replayed, besides one large segment: the
replay of a known history gives the recorded reserve (``calibration/phantom``), but the order in which a run loads its
weights and meets its lengths is not known. Orders of lengths that were tried (ascending, descending, mixed; 36 replays
of 100 MB to 13 GB) changed nothing once there was more than one length."""
UNREPLAYED_SHARE = 0.06
"""What is reserved beyond allocated bytes where nothing was replayed: median of the same replays, besides one large
segment."""
UNREPLAYED_HIGH = 0.40
"""The same in all of them, besides two large segments."""
UNREPLAYED_REQUIRED = 0.03
"""What is required beyond allocated bytes: median of the same replays, besides one large segment."""
UNREPLAYED_REQUIRED_HIGH = 0.22
"""The same in all of them, besides two large segments."""
SHALLOW_HALF_WIDTH = 0.12
"""90 % half width of reserved over allocated bytes when only a shallow model could be replayed: two depths of six
decoders and encoders differed by up to 11 %."""
CONTEXT_LOW, CONTEXT_HIGH = 0.6, 1.5
"""Factors on a CUDA context whose profile states no interval: it depends on the driver and on which kernels were
loaded."""


@dataclass(frozen=True)
class _Figures:
    """AllocatorPeaks, and how far ``reserved`` and ``required`` may be off because of the allocator alone."""

    holdings: AllocatorPeaks
    reserved: Spread
    required: Spread


def estimate(run: TracedRun, limit_bytes: int | None) -> MemoryEstimate:
    """Memory of a run on a card, its events replayed.

    Args:
        run: What is asked about.
        limit_bytes: What the run may take of the card, context included; ``None`` is all that is there.
    """
    device = run.device
    # What other processes hold now is theirs: torch can have the rest, less its own context.
    limit_bytes = min(device.available_bytes or device.memory_bytes, limit_bytes or device.memory_bytes)
    return _estimate(run, _replayed(run, limit_bytes - device.context_bytes))


def bounds(run: TracedRun) -> MemoryBounds:
    """Memory of a run on a card without a replay.

    One and a half times the spreads, so that a limit outside the bounds is decided at every usual safety level.
    """
    allocated, context_bytes = _allocated_bytes(run), run.device.context_bytes
    return MemoryBounds(
        _estimate(run, _unreplayed(allocated)),
        least_bytes=allocated * (1 - 2 * TRACE_HALF_WIDTH) + CONTEXT_LOW * context_bytes,
        most_bytes=allocated * (1 + 1.5 * UNREPLAYED_REQUIRED_HIGH) + 3 * LARGE_SEGMENT_BYTES + 2 * context_bytes,
    )


def _estimate(run: TracedRun, figures: _Figures) -> MemoryEstimate:
    device, held, context = run.device, figures.holdings, _context(run.device)
    trace = Spread(TRACE_HALF_WIDTH * held.allocated_bytes, TRACE_HALF_WIDTH * held.allocated_bytes)
    device_bytes = held.reserved_bytes + device.context_bytes
    required_bytes = held.required_bytes + device.context_bytes
    basis: Basis = "transferred" if device.basis == "measured" else "datasheet"
    return MemoryEstimate(
        allocated_bytes=held.allocated_bytes,
        reserved_bytes=held.reserved_bytes,
        device_bytes=device_bytes,
        breakdown=breakdown(run.peak, device_bytes, _workspaces(run).total_bytes, device.context_bytes),
        intervals={
            "allocated_bytes": interval_around(held.allocated_bytes, trace),
            "reserved_bytes": interval_around(held.reserved_bytes, trace, figures.reserved),
            "device_bytes": interval_around(device_bytes, trace, figures.reserved, context),
            "required_bytes": interval_around(required_bytes, trace, figures.required, context),
        },
        peak_phase=run.phase,
        evidence="extrapolated",
        basis=basis,
        required_bytes=required_bytes,
        host_bytes=None if run.overheads.host is None else host_peak_bytes(run.overheads.host),
    )


def _workspaces(run: TracedRun) -> Workspaces:
    return Workspaces(
        forward_bytes=run.device.workspace_bytes * run.family.multiplies_in("forward"),
        backward_bytes=run.device.workspace_bytes * run.family.multiplies_in("backward"),
    )


def _allocated_bytes(run: TracedRun) -> int:
    return run.live_bytes + _workspaces(run).total_bytes


def _context(device: DeviceProfile) -> Spread:
    low, high = device.context_interval_bytes or (
        CONTEXT_LOW * device.context_bytes,
        CONTEXT_HIGH * device.context_bytes,
    )
    return Spread(max(0.0, device.context_bytes - low), max(0.0, high - device.context_bytes))


def _unreplayed(allocated_bytes: int) -> _Figures:
    reserved = round(allocated_bytes * (1 + UNREPLAYED_SHARE)) + LARGE_SEGMENT_BYTES
    required = round(allocated_bytes * (1 + UNREPLAYED_REQUIRED)) + LARGE_SEGMENT_BYTES
    return _Figures(
        AllocatorPeaks(allocated_bytes, reserved, required),
        reserved=Spread(
            reserved - allocated_bytes,
            (UNREPLAYED_HIGH - UNREPLAYED_SHARE) * allocated_bytes + LARGE_SEGMENT_BYTES,
        ),
        required=Spread(
            required - allocated_bytes,
            (UNREPLAYED_REQUIRED_HIGH - UNREPLAYED_REQUIRED) * allocated_bytes + LARGE_SEGMENT_BYTES,
        ),
    )


def _replayed(run: TracedRun, capacity_bytes: int) -> _Figures:
    family, shapes, workspaces, extras = run.family, run.shapes, _workspaces(run), run.extras
    if family.events(shapes.training) is None:
        return _shallow(run)

    def replayed() -> tuple[int, int, int]:
        logs = {shape: log for _, shape in shapes.steps() if (log := family.events(shape)) is not None}
        plan = schedule(logs[shapes.training])
        found = holdings(
            plan,
            storage_sizes(logs),
            shapes,
            workspaces,
            extras=extras,
            capacity_bytes=capacity_bytes,
            expandable_segments=run.expandable_segments,
        )
        return found.allocated_bytes, found.reserved_bytes, found.required_bytes

    key = repr((replay_version(), shapes, workspaces, extras, capacity_bytes, family.card, run.expandable_segments))
    held = AllocatorPeaks(*family.replays.get(key, replayed))
    spread = Spread(
        CACHE_HALF_WIDTH * held.reserved_bytes, CACHE_HALF_WIDTH * held.reserved_bytes + LARGE_SEGMENT_BYTES
    )
    return _Figures(held, spread, spread)


def _shallow(run: TracedRun) -> _Figures:
    """Reserved over allocated bytes of the deepest traced model, carried to the whole one."""
    allocated_bytes, shapes = _allocated_bytes(run), run.shapes
    logs = {shape: run.family.deepest_events(shape) for _, shape in shapes.steps()}
    expandable = run.expandable_segments
    sizes, workspaces = storage_sizes(logs), _workspaces(run)
    held = holdings(schedule(logs[shapes.training]), sizes, shapes, workspaces, expandable_segments=expandable)
    reserved = round(allocated_bytes * held.reserved_bytes / held.allocated_bytes)
    required = round(allocated_bytes * held.required_bytes / held.allocated_bytes)
    spread = Spread(SHALLOW_HALF_WIDTH * reserved, SHALLOW_HALF_WIDTH * reserved)
    return _Figures(AllocatorPeaks(allocated_bytes, reserved, required), spread, spread)
