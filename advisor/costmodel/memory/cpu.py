"""On a CPU the device is the process: its resident set, imports included.

What is resident is what the process holds after its imports, the weights, and the heap that the steps have grown: the
traced allocations are replayed through a model of it. Calibration adds what no trace has: buffers of kernels, thread
pools, Python's own objects.
"""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.coefficients import Calibration, ResidentFit
from advisor.core.cost import Basis, Evidence, Interval, MemoryEstimate
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.stats import t_quantile_95
from advisor.costmodel.memory.batch_sequence import RunShapes
from advisor.costmodel.memory.intervals import Spread, breakdown, interval_around
from advisor.costmodel.memory.replay import UntracedAllocations, heap_bytes, replay_version, schedule, storage_sizes
from advisor.tracing.full_depth import FullDepthTrace
from advisor.tracing.live_memory import Peak, phase_peaks
from advisor.tracing.symbolic_trace import KINDS, EventLog

TRACE_HALF_WIDTH = 0.002
"""90 % half width of the allocated peak: the contract test keeps it below 0.1 % of the profiler's events."""
RESIDENT_HALF_WIDTH = 0.20
"""90 % half width of the resident set without a calibration of this machine."""
RESIDENT_FLOOR = 0.08
"""Narrowest 90 % half width of the resident set with a calibration: texts, tokenizers, evaluation and checkpoints of
whole runs are not in its steps."""
BYTES_PER_HEAP_BYTE = 1.05
"""Without a calibration: buffers of kernels beside the traced ones (MiniLM and SmolLM2, 4 to 10 % of the heap)."""
UNREPLAYED_SHARE, UNREPLAYED_HIGH = 0.2, 0.8
"""What the heap takes beyond its largest live bytes where it was not replayed: median and largest of the replays of
nine runs of MiniLM and SmolLM2."""


def on_cpu(
    live_bytes: int,
    peak: Peak,
    phase: str,
    family: FullDepthTrace,
    shapes: RunShapes,
    model: ModelSpec,
    device: DeviceProfile,
    calibration: Calibration | None,
    *,
    extras: UntracedAllocations,
    reader_bytes: int = 0,
    limit_bytes: int | None = None,
    sweeping: bool = False,
) -> MemoryEstimate:
    """Memory of a run on a CPU.

    Loading is the other peak to look at: while a file of weights is read, its mapped pages and the tensors made from
    them are both resident. Saving copies nothing: safetensors 0.8 writes from the tensors' own memory.

    Args:
        live_bytes: Live storages at the largest moment of the run.
        peak: The same by kind.
        phase: Where that moment is.
        family: Its events are replayed.
        shapes: The history to replay.
        model: Its stored weights bound the loading peak.
        device: The machine.
        calibration: Of this machine; wide defaults without it.
        extras: What the trace has not.
        reader_bytes: What reading the data leaves in the process.
        limit_bytes: What the run may take; ``None`` is all that is there.
        sweeping: Only whether it stays within the limit is asked: far from it nothing is replayed.
    """
    known = calibration.resident if calibration is not None else None
    fit = known or ResidentFit(device.context_bytes, BYTES_PER_HEAP_BYTE, residual_relative=0.0, samples=0)
    baseline_bytes = fit.baseline_bytes + reader_bytes
    weights_bytes = peak.by_kind[0]
    dynamic_bytes = live_bytes - weights_bytes
    limit_bytes = min(limit_bytes or device.memory_bytes, device.memory_bytes)
    if sweeping and _far(baseline_bytes + weights_bytes, dynamic_bytes, limit_bytes):
        heap = _Heap(round((1 + UNREPLAYED_SHARE) * dynamic_bytes), 0)
    else:
        heap = _replayed(family, shapes, dynamic_bytes, extras)
    device_bytes = round(baseline_bytes + weights_bytes + fit.bytes_per_heap_byte * heap.grown_bytes)
    loading_bytes = baseline_bytes + 2 * model.weights_bytes
    if loading_bytes > device_bytes:
        device_bytes, phase = loading_bytes, "loading"
    trust = _Trust.in_fit(known)
    share = Spread(trust.half_width * device_bytes, trust.half_width * device_bytes)
    one_more = Spread(0.0, heap.largest_bytes)
    allocated = Interval(live_bytes * (1 - TRACE_HALF_WIDTH), live_bytes * (1 + TRACE_HALF_WIDTH))
    return MemoryEstimate(
        allocated_bytes=live_bytes,
        reserved_bytes=live_bytes,
        device_bytes=device_bytes,
        breakdown=breakdown(peak, device_bytes, 0, baseline_bytes),
        intervals={
            "allocated_bytes": allocated,
            "reserved_bytes": allocated,
            "device_bytes": interval_around(device_bytes, share, one_more),
        },
        peak_phase=phase,
        evidence=trust.evidence,
        basis=trust.basis,
        host_bytes=device_bytes,
    )


@dataclass(frozen=True)
class _Trust:
    """How far a resident set may be off, and what it rests on."""

    half_width: float
    evidence: Evidence
    basis: Basis

    @classmethod
    def in_fit(cls, fit: ResidentFit | None) -> _Trust:
        if fit is None:
            return cls(RESIDENT_HALF_WIDTH, "extrapolated", "prior")
        fitted = t_quantile_95(fit.samples - 1) * fit.residual_relative
        return cls(max(RESIDENT_FLOOR, fitted), "interpolated", "calibrated")


def _far(lasting_bytes: int, dynamic_bytes: int, limit_bytes: int) -> bool:
    """Whether the answer is clear without a replay."""
    least = (lasting_bytes + dynamic_bytes) * (1 - RESIDENT_HALF_WIDTH)
    most = (lasting_bytes + dynamic_bytes * (1 + UNREPLAYED_HIGH)) * (1 + RESIDENT_HALF_WIDTH)
    return not least <= limit_bytes <= most


@dataclass(frozen=True)
class _Heap:
    """What a heap grows to, and the largest block that steps take from it.

    One such block more is in the interval: whether the last gap is just large enough for one is chance. Logits of a
    small Llama, 0.25 GiB of 2, made the largest errors of 248 steps.
    """

    grown_bytes: int
    largest_bytes: int


def _replayed(family: FullDepthTrace, shapes: RunShapes, dynamic_bytes: int, extras: UntracedAllocations) -> _Heap:
    """Replay the history; where the full depth's events are unknown, the deepest traced ones give the proportion.

    Args:
        family: Its events are replayed.
        shapes: The history.
        dynamic_bytes: Largest live bytes at full depth, without weights.
        extras: What the trace has not.
    """

    def replayed() -> tuple[int, int]:
        logs = {shape: log for _, shape in shapes.steps() if (log := family.events(shape)) is not None}
        whole = shapes.training in logs
        if not whole:
            logs = {shape: family.deepest_events(shape) for _, shape in shapes.steps()}
        grown = heap_bytes(schedule(logs[shapes.training]), storage_sizes(logs), shapes, extras)
        largest = max(_largest_block(log) for log in logs.values())
        return grown if whole else round(grown * dynamic_bytes / _dynamic_bytes(family, shapes)), largest

    key = repr((replay_version(), "heap", shapes, extras, dynamic_bytes))
    grown_bytes, largest_bytes = family.replays.get(key, replayed)
    return _Heap(max(dynamic_bytes, grown_bytes), largest_bytes)


def _largest_block(log: EventLog) -> int:
    """Of what a step allocates anew."""
    return int(log.sizes_bytes[log.kinds >= KINDS.index("gradient")].max(initial=0))


def _dynamic_bytes(family: FullDepthTrace, shapes: RunShapes) -> int:
    """Largest live bytes of the deepest traced model, without weights."""
    peaks = phase_peaks(family.deepest_events(shapes.training), round_bytes=1)
    return max(1, max(peak.live_bytes - peak.by_kind[0] for peak in peaks.values()))
