"""On a CPU the device is the process: its resident set, imports included, from this machine's calibration."""

from __future__ import annotations

from advisor.core.cost import Basis, Evidence, Interval, MemoryEstimate
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.costmodel.calibration.record import Calibration
from advisor.costmodel.memory.breakdown import breakdown, transient_bytes
from advisor.costmodel.memory_curve import Peak
from advisor.costmodel.student import t_quantile_95

TRACE_HALF_WIDTH = 0.002
"""90 % half width of the allocated peak: the contract test keeps it below 0.1 % of the profiler's events."""
RESIDENT_HALF_WIDTH = 0.20
"""90 % half width of the resident set without a calibration of this machine."""
RESIDENT_FLOOR = 0.08
"""Narrowest 90 % half width of the resident set with a calibration: whole runs of MiniLM, with data, evaluation and
checkpoints, came out 3 % above what short steps promised (LoRA), one QLoRA run 13 %."""
RESIDENT_BYTES_PER_TRANSIENT_BYTE = 1.0
"""What glibc holds beyond the live bytes of a step, without a calibration (MiniLM, see ``ResidentFit``)."""


def on_cpu(
    live_bytes: int, peak: Peak, phase: str, model: ModelSpec, device: DeviceProfile, calibration: Calibration | None
) -> MemoryEstimate:
    """Memory of a run on a CPU.

    Loading is the other peak to look at: while a file of weights is read, its mapped pages and the tensors made from
    them are both resident. Saving copies nothing: safetensors 0.8 writes from the tensors' own memory.

    Args:
        live_bytes: Live storages at the largest moment of the run.
        peak: The same by kind.
        phase: Where that moment is.
        model: Its stored weights bound the loading peak.
        device: The machine.
        calibration: Of this machine; wide defaults without it.
    """
    fit = calibration.resident if calibration is not None else None
    baseline_bytes = fit.baseline_bytes if fit is not None else device.context_bytes
    held_per_byte = fit.bytes_per_transient_byte if fit is not None else RESIDENT_BYTES_PER_TRANSIENT_BYTE
    device_bytes = round(baseline_bytes + live_bytes + held_per_byte * transient_bytes(peak, live_bytes))
    loading_bytes = baseline_bytes + 2 * model.weights_bytes
    if loading_bytes > device_bytes:
        device_bytes, phase = loading_bytes, "loading"
    half_width = RESIDENT_HALF_WIDTH
    evidence: Evidence = "extrapolated"
    basis: Basis = "prior"
    if fit is not None:
        half_width = max(RESIDENT_FLOOR, t_quantile_95(fit.samples - 1) * fit.residual_relative)
        evidence, basis = "interpolated", "calibrated"
    half_bytes = half_width * device_bytes
    allocated = Interval(live_bytes * (1 - TRACE_HALF_WIDTH), live_bytes * (1 + TRACE_HALF_WIDTH))
    return MemoryEstimate(
        allocated_bytes=live_bytes,
        reserved_bytes=live_bytes,
        device_bytes=device_bytes,
        breakdown=breakdown(peak, device_bytes, 0, baseline_bytes),
        intervals={
            "allocated_bytes": allocated,
            "reserved_bytes": allocated,
            "device_bytes": Interval(max(0.0, device_bytes - half_bytes), device_bytes + half_bytes),
        },
        peak_phase=phase,
        evidence=evidence,
        basis=basis,
        host_bytes=device_bytes,
    )
