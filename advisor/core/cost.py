"""What a configuration costs: memory, time and quality, each with an interval, its evidence and its source.

Base units: bytes and seconds. The JSON keys of these records are stable; ``docs/json.md`` documents them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from advisor.core.metrics import Metric
from advisor.core.serialization import LATER

Evidence = Literal["measured", "interpolated", "extrapolated", "onset not reached"]
"""Whether the figure was measured, lies between measured configurations, or outside of them. ``"onset not reached"`` is
said of quality alone: short runs were made and stayed at chance level, which is no evidence."""

Basis = Literal["measured", "calibrated", "transferred", "datasheet", "prior"]
"""Where the figure comes from: a run of this very configuration, this machine's calibration, another device's
calibration, a datasheet, or published comparisons (prior). Tables call it "source"."""


@dataclass(frozen=True)
class Interval:
    """A two-sided interval that should contain the true value with probability ``level``.

    Attributes:
        low, high: Both ends.
        level: Probability, 0.9 unless stated otherwise.
    """

    low: float
    high: float
    level: float = 0.9

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low}, high={self.high}")

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def upper(self, value: float, level: float) -> float:
        """What the true value stays below with probability ``level``, at least 0.5.

        The half of the interval above ``value``, the point prediction, is taken as half of a normal distribution.
        """
        deviation = (self.high - value) / NormalDist().inv_cdf((1 + self.level) / 2)
        return value + NormalDist().inv_cdf(level) * deviation


@dataclass(frozen=True)
class MemoryBreakdown:
    """What the device holds at the moment of the peak; the parts add up to ``device_bytes``.

    Attributes:
        weights_bytes: Weights of model and adapter.
        gradients_bytes: Gradients of what trains.
        optimizer_states_bytes: States of the optimizer.
        activations_bytes: Tensors kept for the backward pass.
        temporaries_bytes: Other tensors, and what the allocator caches or the system pages in on top.
        workspace_bytes: Workspaces of libraries such as cuBLAS.
        context_bytes: The process itself: context of the device, libraries, interpreter.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_states_bytes: int
    activations_bytes: int
    temporaries_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_states_bytes
            + self.activations_bytes
            + self.temporaries_bytes
            + self.workspace_bytes
            + self.context_bytes
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of the whole run.

    Attributes:
        allocated_bytes: Live tensor bytes (CUDA: what ``torch.cuda.max_memory_allocated`` will say; CPU: what the
            profiler's memory events add up to).
        reserved_bytes: What the caching allocator holds (CPU: equals allocated).
        device_bytes: What must fit: NVML's figure for the process on CUDA; the whole process's resident set on CPU.
        breakdown: The parts of ``device_bytes`` at the peak.
        intervals: 90 % intervals by field name (``allocated_bytes``, ``reserved_bytes``, ``device_bytes``,
            ``required_bytes``).
        peak_phase: ``"loading"``, ``"forward"``, ``"backward"``, ``"optimizer"``, ``"evaluation"`` or ``"saving"``.
        evidence, basis: Of the memory.
        required_bytes: The least that the device must have for the run to end; its upper quantile is what decides
            whether a plan fits. Below ``device_bytes`` on CUDA, where the allocator returns cached memory before it
            gives up; ``None`` where nothing can be returned (CPU).
        host_bytes: What the process takes of the host's memory at its peak (CPU: ``device_bytes``).
    """

    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int
    breakdown: MemoryBreakdown
    intervals: dict[str, Interval]
    peak_phase: str
    evidence: Evidence
    basis: Basis
    required_bytes: int | None = None
    host_bytes: int | None = None

    def quantile_bytes(self, level: float) -> int:
        """What the run needs at most with probability ``level``: the figure that is compared with a memory budget.

        ``required_bytes`` decide, or ``device_bytes`` where nothing can be given back.
        """
        name = "device_bytes" if self.required_bytes is None else "required_bytes"
        value = self.device_bytes if self.required_bytes is None else self.required_bytes
        interval = self.intervals.get(name)
        return value if interval is None else round(interval.upper(value, level))


@dataclass(frozen=True)
class InferenceEstimate:
    """How fast the model answers, forward passes alone, in batches of ``eval_batch_size`` held-out rows.

    Attributes:
        samples_per_s: Rows per second.
        tokens_per_s: Real (not padding) tokens read per second; for causal models this is the prefill.
        decode_tokens_per_s: Tokens that a causal model writes per second to one reader; ``None`` for other models.
        intervals: 90 % intervals by field name.
        evidence, basis: Of ``samples_per_s`` and ``tokens_per_s``.
        decode_basis: How the decoding figure was computed, one sentence.
    """

    samples_per_s: float
    tokens_per_s: float
    decode_tokens_per_s: float | None
    intervals: dict[str, Interval]
    evidence: Evidence
    basis: Basis
    decode_basis: str = ""


@dataclass(frozen=True)
class TimeEstimate:
    """Time of one optimizer step (all its micro-batches) and of the whole run.

    Attributes:
        step_s: Median optimizer step.
        samples_per_s: Effective batch size / ``step_s``.
        tokens_per_s: Real (not padding) tokens / ``step_s``.
        total_s: From reading the data to the saved result.
        intervals: 90 % intervals by field name (``step_s``, ``total_s``, ``energy_j``, ``latency_s``, ...).
        parts: Where ``total_s`` goes, seconds by name: ``data`` (reading and tokenising), ``loading`` (the model),
            ``set_up`` (the Trainer), ``warm_up`` (the first step beyond the others), ``training`` (steps),
            ``between_steps`` (fetching batches, callbacks), ``evaluation``, ``checkpoints``, ``saving``.
        evidence, basis: Of the times.
        inference: Speed of the trained model; ``None`` where no forward pass was traced.
        energy_j: What the device takes over the run, in joules; ``None`` where nothing is known of its power.
        energy_basis: How it was computed, or why it is missing.
        latency_s: One forward pass of one row of median length (of the longest without data), as trained.
        merged_latency_s: The same once adapters are merged into the weights; where a latency was bounded and the method
            merges.
    """

    step_s: float
    samples_per_s: float
    tokens_per_s: float
    total_s: float
    intervals: dict[str, Interval]
    parts: dict[str, float]
    evidence: Evidence
    basis: Basis
    inference: InferenceEstimate | None = None
    energy_j: float | None = None
    energy_basis: str = ""
    latency_s: float | None = field(default=None, metadata=LATER)
    merged_latency_s: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class QualityPoint:
    """Expected held-out quality of the same plan after a number of epochs, as a whole run of its own.

    Attributes:
        epochs: Passes over the training rows.
        steps: Optimizer steps of that run.
        value: Expected metric.
        interval: 90 % interval.
        evidence: Whether runs of so many steps were recorded.
    """

    epochs: float
    steps: int
    value: float
    interval: Interval
    evidence: Evidence


@dataclass(frozen=True)
class QualityEstimate:
    """Expected held-out quality.

    Attributes:
        metric: What is predicted, over held-out items: ``accuracy``, ``perplexity``, or another registered metric.
        value: Point prediction; ``None`` when the advisor abstains.
        interval: 90 % interval; ``None`` when it abstains.
        p_at_least: Probability that the metric reaches the user's minimum; ``None`` without a minimum.
        certified: Whether enough tasks stand behind the interval to certify its level.
        reason: Where the figure comes from, or why there is none, one sentence.
        evidence, basis: Of the quality.
        parts: What the figure is made of, in the metric's unit, by name; they add up to ``value`` up to its limits.
            Empty where it is no sum.
        curve: The metric as a function of epochs and steps, rising; empty where it is not known.
    """

    metric: Metric
    value: float | None
    interval: Interval | None
    p_at_least: float | None
    certified: bool
    reason: str
    evidence: Evidence
    basis: Basis
    parts: dict[str, float] = field(default_factory=dict)
    curve: tuple[QualityPoint, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True)
class CostEstimate:
    """The cost of one configuration, the same everywhere (``predict --json``, ``recommend --json``, ``plan.json``).

    Attributes:
        memory: Peak memory of the whole run.
        time: ``None`` where it was not predicted.
        quality: ``None`` without a data set.
        fits: Whether the run stays within budget and device (``Budget.check``).
        trainable_parameters, total_parameters: Counts; quantised weights at their logical size.
        evidence, basis: The weakest of the figures.
        notes: Remarks, one sentence each.
        saved_bytes: Weights on disk that the run saves: those of the adapter and a new head, or of the whole model.
        saved_interval: Between what they lie; file headers and the data type of a head make the difference.
    """

    memory: MemoryEstimate
    time: TimeEstimate | None
    quality: QualityEstimate | None
    fits: bool | None
    trainable_parameters: int
    total_parameters: int
    evidence: Evidence
    basis: Basis
    notes: tuple[str, ...] = field(default_factory=tuple)
    saved_bytes: int | None = field(default=None, metadata=LATER)
    saved_interval: Interval | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class PackEstimate:
    """What a pack of runs is predicted to cost, beside the same runs one after the other.

    Attributes:
        members: How many.
        allocated_bytes: Tensors that are alive at the worst moment of a step, all rows at full length.
        step_s: One optimizer step of all members.
        alone_s: One optimizer step of each member, one after the other.
    """

    members: int
    allocated_bytes: int
    step_s: float
    alone_s: float

    @property
    def speed_up(self) -> float:
        """How many times as fast the pack is."""
        return self.alone_s / self.step_s
