"""From traced peaks to what the device must hold over the whole run.

CUDA: allocated = traced peak in 512-byte blocks + cuBLAS workspaces; reserved = allocated x what the caching allocator
keeps on top (replayed); device = reserved + CUDA context. CPU: device is the resident set of the whole process,
imports included, from this machine's calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from advisor.core.cost import Basis, Evidence, Interval, MemoryBreakdown, MemoryEstimate
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.costmodel.calibration.record import Calibration
from advisor.costmodel.depth import TRAINING_PHASES, StepFamily
from advisor.costmodel.memory_curve import Peak, rounding
from advisor.costmodel.time.step import t_quantile_95
from advisor.costmodel.trace.symbolic import Shape

INTERVAL_LEVEL = 0.9
TRACE_HALF_WIDTH_CPU = 0.002
"""90 % half width of the allocated peak on CPU: the contract test keeps it below 0.1 % of the profiler's events."""
TRACE_HALF_WIDTH_CUDA = 0.02
"""The same on CUDA: full, LoRA and QLoRA runs of a 7B model published for one A100-80GB came out within 1 %; doubled,
because that is one device and one architecture."""
CACHE_HALF_WIDTH = 0.12
"""Share of the reserved bytes that the replay of one step may miss: two depths of six decoders and encoders differed
by up to 11 % in (reserved / allocated), and lengths that change from batch to batch fragment further."""
CONTEXT_LOW, CONTEXT_HIGH = 0.6, 1.5
"""Factors on a datasheet's CUDA context: it depends on the driver and on which kernels were loaded."""
WORKSPACES = 2
"""cuBLAS handles of one step: the forward thread's and the autograd thread's."""
RESIDENT_HALF_WIDTH = 0.20
"""90 % half width of the resident set on CPU without a calibration of this machine."""
RESIDENT_FLOOR = 0.08
"""Narrowest 90 % half width of the resident set with a calibration: whole runs of MiniLM, with data, evaluation and
checkpoints, came out 3 % above what short steps promised (LoRA), one QLoRA run 13 %."""
RESIDENT_BYTES_PER_TRANSIENT_BYTE = 1.0
"""What glibc holds beyond the live bytes of a step, without a calibration (MiniLM, see ``ResidentFit``)."""

PHASE_NAMES = {"first_forward": "forward", "first_backward": "backward", "weights": "loading", "states": "optimizer"}


@dataclass(frozen=True)
class RunShapes:
    """Shapes that bound a run's memory: the longest training batch and the longest evaluation batch."""

    training: Shape
    evaluation: Shape


def estimate_memory(
    family: StepFamily,
    shapes: RunShapes,
    model: ModelSpec,
    device: DeviceProfile,
    calibration: Calibration | None,
    *,
    extra_batch_bytes: int = 0,
) -> MemoryEstimate:
    """Peak memory of the whole run: loading, longest batch, evaluation.

    Args:
        family: Traced steps of the configuration.
        shapes: Where to evaluate them.
        model: Its stored weights bound the loading peak on CPU.
        device: Context, workspace, and whose semantics apply.
        calibration: Of this machine (CPU: resident set).
        extra_batch_bytes: Micro-batches that the loader holds besides the traced ones.
    """
    round_bytes = rounding(device.type)
    training = family.peaks(shapes.training, round_bytes=round_bytes)
    candidates = {name: training[name] for name in TRAINING_PHASES if name in training}
    evaluation = family.peaks(shapes.evaluation, round_bytes=round_bytes).get("evaluation")
    if evaluation is not None:
        candidates["evaluation"] = evaluation
    phase = max(candidates, key=lambda name: candidates[name].live_bytes)
    live_bytes = candidates[phase].live_bytes + extra_batch_bytes
    name = PHASE_NAMES.get(phase, phase)
    if device.type == "cpu":
        return _on_cpu(live_bytes, candidates[phase], name, model, device, calibration)
    return _on_cuda(live_bytes, candidates[phase], name, family, shapes, device)


def memory_quantile_bytes(memory: MemoryEstimate, level: float) -> int:
    """What ``device_bytes`` stays below with probability ``level``; the upper half of the interval taken as normal."""
    upper = memory.intervals["device_bytes"].high - memory.device_bytes
    sigma = upper / NormalDist().inv_cdf((1 + INTERVAL_LEVEL) / 2)
    return round(memory.device_bytes + NormalDist().inv_cdf(level) * sigma)


def _on_cuda(
    live_bytes: int, peak: Peak, phase: str, family: StepFamily, shapes: RunShapes, device: DeviceProfile
) -> MemoryEstimate:
    workspace_bytes = WORKSPACES * device.workspace_bytes
    allocated_bytes = live_bytes + workspace_bytes
    reserved_bytes = max(allocated_bytes, round(allocated_bytes * family.cached_share(shapes.training)))
    device_bytes = reserved_bytes + device.context_bytes
    low = allocated_bytes * (1 - TRACE_HALF_WIDTH_CUDA) - device.workspace_bytes
    high = allocated_bytes * (1 + TRACE_HALF_WIDTH_CUDA)
    reserved = Interval(low, max(reserved_bytes * (1 + CACHE_HALF_WIDTH / 2), high))
    context = (device.context_bytes * CONTEXT_LOW, device.context_bytes * CONTEXT_HIGH)
    basis: Basis = "datasheet" if device.basis == "datasheet" else "transferred"
    return MemoryEstimate(
        allocated_bytes=allocated_bytes,
        reserved_bytes=reserved_bytes,
        device_bytes=device_bytes,
        breakdown=_breakdown(peak, device_bytes, workspace_bytes, device.context_bytes),
        intervals={
            "allocated_bytes": Interval(low, high),
            "reserved_bytes": reserved,
            "device_bytes": Interval(reserved.low + context[0], reserved.high + context[1]),
        },
        peak_phase=phase,
        evidence="extrapolated",
        basis=basis,
    )


def _on_cpu(
    live_bytes: int, peak: Peak, phase: str, model: ModelSpec, device: DeviceProfile, calibration: Calibration | None
) -> MemoryEstimate:
    fit = calibration.resident if calibration is not None else None
    baseline_bytes = fit.baseline_bytes if fit is not None else device.context_bytes
    held_per_byte = fit.bytes_per_transient_byte if fit is not None else RESIDENT_BYTES_PER_TRANSIENT_BYTE
    device_bytes = round(baseline_bytes + live_bytes + held_per_byte * _transient_bytes(peak, live_bytes))
    # While a file of weights is read, its mapped pages and the tensors made from them are both resident.
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
    allocated = Interval(live_bytes * (1 - TRACE_HALF_WIDTH_CPU), live_bytes * (1 + TRACE_HALF_WIDTH_CPU))
    return MemoryEstimate(
        allocated_bytes=live_bytes,
        reserved_bytes=live_bytes,
        device_bytes=device_bytes,
        breakdown=_breakdown(peak, device_bytes, 0, baseline_bytes),
        intervals={
            "allocated_bytes": allocated,
            "reserved_bytes": allocated,
            "device_bytes": Interval(max(0.0, device_bytes - half_bytes), device_bytes + half_bytes),
        },
        peak_phase=phase,
        evidence=evidence,
        basis=basis,
    )


def _transient_bytes(peak: Peak, live_bytes: int) -> int:
    """What the step allocated itself: everything but weights and optimizer states."""
    weights, states, *_ = peak.by_kind
    return live_bytes - weights - states


def _breakdown(peak: Peak, device_bytes: int, workspace_bytes: int, context_bytes: int) -> MemoryBreakdown:
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
