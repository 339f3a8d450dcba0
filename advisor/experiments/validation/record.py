"""Records of a validation: one line per case, and what the whole file was measured with."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Literal

from advisor.core.device import DeviceProfile
from advisor.core.model import Task

SCHEMA_VERSION = 1

Kind = Literal["memory", "time", "all"]
"""What a file of records is about; ``"all"``: both, in one run."""
GridName = Literal["cpu", "cpu-wide", "cuda", "quick"]
CaseOutcome = Literal["completed", "out_of_memory", "over_time", "failed", "refused", "skipped"]
"""How a case ended: ``refused`` could not be predicted or built, ``skipped`` does not suit this machine, ``failed`` for
any other reason; the next call runs it again."""

QUANTITIES = ("allocated_bytes", "reserved_bytes", "device_bytes")


@dataclass(frozen=True)
class Header:
    """What every case of a file has in common; the first line.

    Attributes:
        device_id, device_name, device_type, memory_bytes, compute_capability, driver: As the probe found them.
        capacity_bytes: What a process could hold when the validation began.
        versions: Libraries that decide what a step allocates.
        device: The whole profile, so that other versions can predict the cases again elsewhere.
    """

    kind: Kind
    grid: GridName
    device_id: str
    device_name: str
    device_type: Literal["cpu", "cuda"]
    memory_bytes: int
    capacity_bytes: int
    compute_capability: tuple[int, int] | None
    driver: str | None
    versions: dict[str, str]
    started_at: str
    device: DeviceProfile | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class TracedWork:
    """The traced operators of one optimizer step, for baselines that know nothing else.

    Attributes:
        operators: How many there are.
        flops: By data type.
        moved_bytes: Read and written by all of them.
        computed_parameters: Of the model, without those that are only looked up.
        roofline_s: Two-ceiling roofline of the operators with the device's own rates; ``None`` where it has none.
    """

    operators: int
    flops: dict[str, int]
    moved_bytes: int
    computed_parameters: int
    roofline_s: float | None


@dataclass(frozen=True)
class Predicted:
    """What was said before the run.

    Attributes:
        intervals: 90 % intervals by quantity, low and high.
        required_bytes: The least the device must give; ``None`` where nothing can be given back.
        upper_bytes: What the run needs at most at the safety level; compared with the case's capacity.
        fits: Whether it does.
        step_s, step_interval_s: One optimizer step and its 90 % interval.
        code: Version of the tracing code and its libraries.
        calibration: When the calibration behind the step time was made; empty without one.
        step_basis, step_evidence: What the step time rests on, and how far it is from what was measured.
        seen: The calibration measured this configuration and shape itself.
        work: What baselines are made from.
    """

    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int
    required_bytes: int | None
    intervals: dict[str, tuple[float, float]]
    upper_bytes: int
    safety_level: float
    fits: bool
    peak_phase: str
    step_s: float
    step_interval_s: tuple[float, float] | None
    trainable_parameters: int
    code: str
    calibration: str = ""
    step_basis: str = ""
    step_evidence: str = ""
    seen: bool = False
    work: TracedWork | None = None


@dataclass(frozen=True)
class Measured:
    """What the run did.

    Attributes:
        allocated_bytes: CUDA: ``max_memory_allocated``; CPU: the profiler's memory events.
        reserved_bytes: CUDA: ``max_memory_reserved``.
        device_bytes: CUDA: NVML's figure of the process; CPU: resident set.
        baseline_bytes: The same figure before the model was built.
        allocator_retries: How often the caching allocator gave everything back and tried again.
        step_times_s: Steps in order, without the warm-up.
        reference_s: A fixed work load in the same process, before and after the steps: the machine's own speed then.
        trainable_parameters: Counted on the model.
        reasons: Why a figure is missing, or where it comes from, by field name.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    baseline_bytes: int | None = None
    allocator_retries: int | None = None
    step_times_s: tuple[float, ...] = ()
    reference_s: tuple[float, ...] = ()
    trainable_parameters: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One case.

    Attributes:
        key: Content hash of the case.
        label: The case in one line.
        total_parameters: Of the model.
        execution: What differs from the defaults, the attention kernel included.
        mixed_lengths: Steps of random lengths before the measured ones and between them.
        capacity_bytes: What the case could hold; less than the device has where a smaller card is imitated.
        seconds: Of its process.
        repeats, again: As in ``Case``.
    """

    key: str
    label: str
    model: str
    config_hash: str
    task: Task
    total_parameters: int
    method: str
    knobs: dict[str, Any]
    execution: dict[str, Any]
    rows: int
    length: int
    capacity_bytes: int
    outcome: CaseOutcome
    reason: str = ""
    mixed_lengths: int = 0
    predicted: Predicted | None = None
    measured: Measured | None = None
    seconds: float = 0.0
    repeats: int = 0
    again: int = 0

    @property
    def step_s(self) -> float | None:
        """Median of the timed steps; ``None`` where the case is not about time."""
        if self.measured is None or not self.repeats or not self.measured.step_times_s:
            return None
        return statistics.median(self.measured.step_times_s)
