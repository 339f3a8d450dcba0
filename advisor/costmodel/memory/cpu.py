"""On a CPU the device is the process: its resident set, imports included.

What is resident is what the process holds after its imports, the weights, and the heap that the steps have grown: the
traced allocations are replayed through a model of it. Calibration adds what no trace has: buffers of kernels, thread
pools, Python's own objects.
"""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.coefficients import ResidentFit
from advisor.core.cost import Basis, Evidence, Interval, MemoryEstimate
from advisor.core.stats import t_quantile_95
from advisor.costmodel.memory.batch_sequence import RunShapes
from advisor.costmodel.memory.replay import heap_bytes, replay_version, schedule, storage_sizes
from advisor.costmodel.memory.traced_run import MemoryBounds, Spread, TracedRun, breakdown, interval_around
from advisor.tracing.full_depth import FullDepthTrace, phase_peaks
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


def estimate(run: TracedRun, limit_bytes: int | None) -> MemoryEstimate:
    """Memory of a run on a CPU, its events replayed; nothing there depends on ``limit_bytes``."""
    return _estimate(run, _replayed(run))


def bounds(run: TracedRun) -> MemoryBounds:
    """Memory of a run on a CPU without a replay."""
    live_bytes, dynamic_bytes = _baseline_bytes(run) + run.live_bytes, _dynamic_bytes(run)
    return MemoryBounds(
        _estimate(run, _Heap(round((1 + UNREPLAYED_SHARE) * dynamic_bytes), 0)),
        least_bytes=live_bytes * (1 - RESIDENT_HALF_WIDTH),
        most_bytes=(live_bytes + dynamic_bytes * UNREPLAYED_HIGH) * (1 + RESIDENT_HALF_WIDTH),
    )


def _estimate(run: TracedRun, heap: _Heap) -> MemoryEstimate:
    """Loading is the other peak to look at: while a file of weights is read, its mapped pages and the tensors made from
    them are both resident. Saving copies nothing: safetensors 0.8 writes from the tensors' own memory.
    """
    known, phase, baseline_bytes = _known(run), run.phase, _baseline_bytes(run)
    weights_bytes = run.peak.by_kind[0]
    device_bytes = round(baseline_bytes + weights_bytes + _fit(run).bytes_per_heap_byte * heap.grown_bytes)
    loading_bytes = baseline_bytes + 2 * run.model.weights_bytes
    if loading_bytes > device_bytes:
        device_bytes, phase = loading_bytes, "loading"
    trust = _Trust.in_fit(known)
    share = Spread(trust.half_width * device_bytes, trust.half_width * device_bytes)
    one_more = Spread(0.0, heap.largest_bytes)
    allocated = Interval(run.live_bytes * (1 - TRACE_HALF_WIDTH), run.live_bytes * (1 + TRACE_HALF_WIDTH))
    return MemoryEstimate(
        allocated_bytes=run.live_bytes,
        reserved_bytes=run.live_bytes,
        device_bytes=device_bytes,
        breakdown=breakdown(run.peak, device_bytes, 0, baseline_bytes),
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


def _known(run: TracedRun) -> ResidentFit | None:
    return run.calibration.resident if run.calibration is not None else None


def _fit(run: TracedRun) -> ResidentFit:
    uncalibrated = ResidentFit(run.device.context_bytes, BYTES_PER_HEAP_BYTE, residual_relative=0.0, samples=0)
    return _known(run) or uncalibrated


def _baseline_bytes(run: TracedRun) -> int:
    return _fit(run).baseline_bytes + run.overheads.reader_bytes


def _dynamic_bytes(run: TracedRun) -> int:
    """Live bytes besides the weights, which the heap does not hold."""
    return run.live_bytes - run.peak.by_kind[0]


@dataclass(frozen=True)
class _Trust:
    """How far a resident set may be off, and the source of that figure."""

    half_width: float
    evidence: Evidence
    basis: Basis

    @classmethod
    def in_fit(cls, fit: ResidentFit | None) -> _Trust:
        if fit is None:
            return cls(RESIDENT_HALF_WIDTH, "extrapolated", "prior")
        fitted = t_quantile_95(fit.samples - 1) * fit.residual_relative
        return cls(max(RESIDENT_FLOOR, fitted), "interpolated", "calibrated")


@dataclass(frozen=True)
class _Heap:
    """What a heap grows to, and the largest block that steps take from it.

    One such block more is in the interval: whether the last gap is just large enough for one is chance. Logits of a
    small Llama, 0.25 GiB of 2, made the largest errors of 248 steps.
    """

    grown_bytes: int
    largest_bytes: int


def _replayed(run: TracedRun) -> _Heap:
    """Replay the history; where the full depth's events are unknown, the deepest traced ones give the proportion."""
    family, shapes, extras, dynamic_bytes = run.family, run.shapes, run.extras, _dynamic_bytes(run)

    def replayed() -> tuple[int, int]:
        logs = {shape: log for _, shape in shapes.steps() if (log := family.events(shape)) is not None}
        whole = shapes.training in logs
        if not whole:
            logs = {shape: family.deepest_events(shape) for _, shape in shapes.steps()}
        grown = heap_bytes(schedule(logs[shapes.training]), storage_sizes(logs), shapes, extras)
        largest = max(_largest_block(log) for log in logs.values())
        return grown if whole else round(grown * dynamic_bytes / _traced_dynamic_bytes(family, shapes)), largest

    key = repr((replay_version(), "heap", shapes, extras, dynamic_bytes))
    grown_bytes, largest_bytes = family.replays.get(key, replayed)
    return _Heap(max(dynamic_bytes, grown_bytes), largest_bytes)


def _largest_block(log: EventLog) -> int:
    """Of what a step allocates anew."""
    return int(log.sizes_bytes[log.kinds >= KINDS.index("gradient")].max(initial=0))


def _traced_dynamic_bytes(family: FullDepthTrace, shapes: RunShapes) -> int:
    """Largest live bytes of the deepest traced model, without weights."""
    peaks = phase_peaks(family.deepest_events(shapes.training), round_bytes=1)
    return max(1, max(peak.live_bytes - peak.by_kind[0] for peak in peaks.values()))
