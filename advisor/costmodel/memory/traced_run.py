"""A run whose memory is asked about: its traced step, the batches it sees, and what it does besides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from advisor.core.coefficients import Calibration
from advisor.core.cost import Interval, MemoryBreakdown, MemoryEstimate
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.costmodel.memory.batch_sequence import RunShapes
from advisor.costmodel.memory.overheads import RunOverheads
from advisor.costmodel.memory.replay import UntracedAllocations
from advisor.hardware.backends import backend_of
from advisor.tracing.full_depth import TRAINING_PHASES, FullDepthTrace, Peak

PHASE_NAMES = {"first_forward": "forward", "first_backward": "backward", "weights": "loading", "states": "optimizer"}


@dataclass(frozen=True)
class TracedRun:
    """One run on one device.

    Attributes:
        family: Traced steps of the configuration.
        shapes: Where to evaluate them, and which batches come before the longest one.
        model: Its stored weights bound the loading peak on a CPU.
        device: Context, workspace, capacity, and whose semantics apply.
        calibration: Of this machine (CPU: resident set).
        overheads: What the run does besides the traced steps.
        expandable_segments: Whether torch's allocator is told to use them (CUDA).
    """

    family: FullDepthTrace
    shapes: RunShapes
    model: ModelSpec
    device: DeviceProfile
    calibration: Calibration | None = None
    overheads: RunOverheads = field(default_factory=RunOverheads)
    expandable_segments: bool = False

    @property
    def phase(self) -> str:
        """Where the largest moment of the run is, as in ``MemoryEstimate.peak_phase``."""
        return PHASE_NAMES.get(self._largest_moment[0], self._largest_moment[0])

    @property
    def peak(self) -> Peak:
        """Live storages at that moment, by kind; further micro-batches are not among them."""
        return self._largest_moment[1]

    @property
    def live_bytes(self) -> int:
        """All live storages at that moment."""
        return self.peak.live_bytes + self.overheads.extra_batch_bytes

    @property
    def extras(self) -> UntracedAllocations:
        """What the trace has not."""
        return UntracedAllocations(self.overheads.extra_batch_bytes, self.overheads.quantizing_bytes)

    @cached_property
    def _largest_moment(self) -> tuple[str, Peak]:
        traits = backend_of(self.device).memory
        round_bytes = traits.round_bytes
        training = self.family.peaks(self.shapes.training, round_bytes=round_bytes)
        moments = {name: training[name] for name in TRAINING_PHASES if name in training}
        if (shape := self.shapes.evaluation) is not None:
            peaks = training if shape == self.shapes.training else self.family.peaks(shape, round_bytes=round_bytes)
            if "evaluation" in peaks:
                moments["evaluation"] = peaks["evaluation"]
        quantizing_bytes = self.overheads.quantizing_bytes
        if traits.quantizes_on_device and quantizing_bytes and "weights" in moments:
            *others, temporaries = moments["weights"].by_kind
            by_kind = (*others, temporaries + quantizing_bytes)
            moments["weights"] = Peak(moments["weights"].live_bytes + quantizing_bytes, by_kind)
        phase = max(moments, key=lambda name: moments[name].live_bytes)
        return phase, moments[phase]


@dataclass(frozen=True)
class MemoryBounds:
    """What is known of a run's memory without a replay of the allocator.

    Attributes:
        typical: An estimate whose intervals are wide enough for every replay that was looked at.
        least_bytes, most_bytes: The device's memory that decides lies between, at every usual safety level.
    """

    typical: MemoryEstimate
    least_bytes: float
    most_bytes: float

    def leave_open(self, limit_bytes: float) -> bool:
        """Whether only a replay can say if the run stays within a limit."""
        return self.least_bytes <= limit_bytes <= self.most_bytes


# --------------------
# How far a memory figure may be off: independent sources, added in quadrature.

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
