"""Peak memory of one configuration's whole run, on the device it is asked for."""

from __future__ import annotations

from advisor.core.coefficients import Calibration
from advisor.core.cost import MemoryEstimate
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.costmodel.memory.batch_sequence import RunShapes
from advisor.costmodel.memory.cpu import on_cpu
from advisor.costmodel.memory.cuda import on_cuda
from advisor.costmodel.memory.overheads import RunOverheads, host_peak_bytes
from advisor.costmodel.memory.replay import UntracedAllocations
from advisor.hardware.backends import backend_of
from advisor.tracing.full_depth import TRAINING_PHASES, FullDepthTrace
from advisor.tracing.live_memory import Peak

PHASE_NAMES = {"first_forward": "forward", "first_backward": "backward", "weights": "loading", "states": "optimizer"}


def estimate_memory(
    family: FullDepthTrace,
    shapes: RunShapes,
    model: ModelSpec,
    device: DeviceProfile,
    calibration: Calibration | None,
    facts: RunOverheads | None = None,
    *,
    limit_bytes: int | None = None,
    sweeping: bool = False,
) -> MemoryEstimate:
    """Peak memory of the whole run: loading, longest batch, evaluation, saving.

    Saving needs nothing more of a card: tensors are copied to the host one by one. Nothing is merged: a run saves the
    adapter.

    Args:
        family: Traced steps of the configuration.
        shapes: Where to evaluate them, and which batches come before the longest one.
        model: Its stored weights bound the loading peak on CPU.
        device: Context, workspace, capacity, and whose semantics apply.
        calibration: Of this machine (CPU: resident set).
        facts: What the run does besides.
        limit_bytes: What the run may take; ``None`` is all that the device has.
        sweeping: Only whether it stays within the limit is asked: far from it nothing is replayed, and intervals are
            wide.
    """
    facts = facts or RunOverheads()
    phase, peak = _largest_moment(family, shapes, device, facts)
    live_bytes = peak.live_bytes + facts.extra_batch_bytes
    name = PHASE_NAMES.get(phase, phase)
    extras = UntracedAllocations(facts.extra_batch_bytes, facts.quantizing_bytes)
    if backend_of(device).memory.allocator == "heap":
        return on_cpu(
            live_bytes,
            peak,
            name,
            family,
            shapes,
            model,
            device,
            calibration,
            extras=extras,
            reader_bytes=facts.reader_bytes,
            limit_bytes=limit_bytes,
            sweeping=sweeping,
        )
    return on_cuda(
        live_bytes,
        peak,
        name,
        family,
        shapes,
        device,
        extras=extras,
        host_bytes=None if facts.host is None else host_peak_bytes(facts.host),
        limit_bytes=limit_bytes,
        sweeping=sweeping,
    )


def _largest_moment(
    family: FullDepthTrace, shapes: RunShapes, device: DeviceProfile, facts: RunOverheads
) -> tuple[str, Peak]:
    traits = backend_of(device).memory
    round_bytes = traits.round_bytes
    training = family.peaks(shapes.training, round_bytes=round_bytes)
    moments = {name: training[name] for name in TRAINING_PHASES if name in training}
    evaluation = training
    if shapes.evaluation != shapes.training:
        evaluation = family.peaks(shapes.evaluation, round_bytes=round_bytes)
    if "evaluation" in evaluation:
        moments["evaluation"] = evaluation["evaluation"]
    if traits.quantizes_on_device and facts.quantizing_bytes and "weights" in moments:
        loaded = moments["weights"]
        *others, temporaries = loaded.by_kind
        by_kind = (*others, temporaries + facts.quantizing_bytes)
        moments["weights"] = Peak(loaded.live_bytes + facts.quantizing_bytes, by_kind)
    phase = max(moments, key=lambda name: moments[name].live_bytes)
    return phase, moments[phase]
