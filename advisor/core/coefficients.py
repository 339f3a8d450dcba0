"""What calibrating a device leaves behind: fitted coefficients, the raw points behind them, and where they come from.

No coefficient stands alone: each carries its sample count and residual, and the raw points allow refitting.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from advisor.core.stats import robust_relative_sd

SCHEMA_VERSION = 1

OperatorCounts = tuple[tuple[str, int, int, int], ...]
"""Operators as ``(key, flops, moved_bytes, count)``, one entry per distinct call."""


@dataclass(frozen=True)
class ReplayPoint:
    """One operator call timed alone on real tensors.

    Attributes:
        name: Operator, ``"addmm.default"``.
        key: Row of the class table, ``"gemm/float32/addmm"``.
        flops, moved_bytes: Of the call.
        median_s: Median of the repeats.
        spread: Half interquartile range of the repeats over the median.
        share: How often it occurs in the traced steps; weights the fit.
        call: Digest of the call's signature; calls of equal work may differ in layout.
        origin: Index into ``Calibration.provenance``.
    """

    name: str
    key: str
    flops: int
    moved_bytes: int
    median_s: float
    spread: float
    share: int = 1
    call: str = ""
    origin: int = 0

    @property
    def is_plausible(self) -> bool:
        """Whether its time is a positive number."""
        return math.isfinite(self.median_s) and self.median_s > 0


@dataclass(frozen=True)
class ClassFit:
    """Seconds of one operator of a class: a non-negative linear form of its work.

    ``overhead_s + s_per_flop * flops + s_per_near_byte * min(bytes, near_bytes) + s_per_far_byte * max(bytes -
    near_bytes, 0)``

    Attributes:
        near_bytes: Where traffic leaves the cache (chosen per class from the data); infinite traffic classes use 0.
        samples: Replayed calls behind the fit.
        residual_relative: Median of ``|predicted / measured - 1|`` over them.
        max_flops, max_bytes: Largest call replayed; beyond it the fit extrapolates.
    """

    overhead_s: float
    s_per_flop: float
    s_per_near_byte: float
    s_per_far_byte: float
    near_bytes: int
    samples: int
    residual_relative: float
    max_flops: int
    max_bytes: int

    def seconds(self, flops: int, moved_bytes: int) -> float:
        """Time of one call."""
        near = min(moved_bytes, self.near_bytes)
        far = moved_bytes - near
        return self.overhead_s + self.s_per_flop * flops + self.s_per_near_byte * near + self.s_per_far_byte * far


@dataclass(frozen=True)
class StepPoint:
    """A few real Trainer steps of one configuration, and the operators they consist of.

    Attributes:
        model_key: Identity of the architecture (``model_key`` of ``costmodel.time``).
        method: Strategy.
        execution_key: Execution knobs that change the operators (``execution_key`` of ``costmodel.time``).
        micro_batch_size, seq_length: Shape of one micro-batch.
        step_times_s: Raw, after warm-up.
        work: The step's operators, so that any class table can be compared with the measurement later.
        work_s: Seconds of one call of each inside the step; 0 where the profiler did not see it, empty when nothing was
            profiled.
        evaluation_times_s: Evaluation passes of the same micro-batch.
        evaluation_work, evaluation_work_s: As ``work`` and ``work_s``.
        resident_peak_bytes, baseline_resident_bytes: Of the measuring process.
        weights_bytes, heap_bytes: Of a CPU: traced weights, and what the heap should have grown to beyond them (see
            ``costmodel.memory.glibc_heap``); 0 where that is not known.
        origin: Index into ``Calibration.provenance``.
        configuration: ``configuration_key`` of ``costmodel.time``; empty in older records.
        load: What other programs left of the processor meanwhile, in words; such steps are measured again when it is
            quiet.
    """

    model_key: str
    method: str
    execution_key: str
    micro_batch_size: int
    seq_length: int
    step_times_s: tuple[float, ...]
    work: OperatorCounts
    resident_peak_bytes: int = 0
    baseline_resident_bytes: int = 0
    weights_bytes: int = 0
    heap_bytes: int = 0
    origin: int = 0
    work_s: tuple[float, ...] = ()
    evaluation_times_s: tuple[float, ...] = ()
    evaluation_work: OperatorCounts = ()
    evaluation_work_s: tuple[float, ...] = ()
    configuration: str = ""
    load: str = ""

    @property
    def operators(self) -> int:
        """How many operators the step makes."""
        return sum(count for _, _, _, count in self.work)

    @property
    def same_steps(self) -> tuple[str, str, str, int, int]:
        """Equal for measurements of one configuration and shape."""
        return (self.model_key, self.method, self.execution_key, self.micro_batch_size, self.seq_length)

    @property
    def is_plausible(self) -> bool:
        """Whether all its times are positive numbers; those of single operators may be zero, for unknown."""
        whole_s = (*self.step_times_s, *self.evaluation_times_s)
        parts_s = (*self.work_s, *self.evaluation_work_s)
        positive = bool(self.step_times_s) and all(math.isfinite(t) and t > 0 for t in whole_s)
        return positive and all(math.isfinite(t) and t >= 0 for t in parts_s)

    @property
    def median_s(self) -> float:
        return statistics.median(self.step_times_s)

    @property
    def noise_relative(self) -> float:
        """``robust_relative_sd`` of the step times."""
        return robust_relative_sd(self.step_times_s)


@dataclass(frozen=True)
class StepSpread:
    """How far predicted steps are off, by how much of a step is launching operators.

    Steps of 32 tokens on a CPU came out within 15 to 30 %, steps of 1,024 within 3 %: the host's time is less certain
    than that of operators.

    Attributes:
        operators: Relative standard deviation of steps without launching.
        host: That of steps of nothing else; steps in between have both parts in proportion.
    """

    operators: float
    host: float

    def variance(self, host_share: float) -> float:
        """Of the relative error of a step with that share of launching."""
        return self.operators**2 + (self.host * host_share) ** 2


@dataclass(frozen=True)
class StepFit:
    """From operator times to a step: ``step_s = factor * table_s + host_s_per_operator * operators``.

    With another ``power`` than 1 the two parts overlap: ``((factor * table_s)^power + (host_s_per_operator *
    operators)^power)^(1/power)``.

    Attributes:
        factor: What operators cost more in a real step than alone (cold caches, contention).
        host_s_per_operator: Python, autograd and dispatch per operator.
        residual_relative: Root mean square of the relative errors in cross-validation.
        noise_relative: Median repeat noise of the points.
        samples: Points behind the fit.
        transfer_relative: As ``residual_relative``, with all steps of a model left out at once; ``None`` where fewer
            than two models were measured.
        power: 1 where operators run where they are launched (a CPU).
        residual, transfer: The same errors as ``residual_relative`` and ``transfer_relative``, split by the host's
            share; ``None`` where there are too few.
    """

    factor: float
    host_s_per_operator: float
    residual_relative: float
    noise_relative: float
    samples: int
    transfer_relative: float | None = None
    power: int = 1
    residual: StepSpread | None = None
    transfer: StepSpread | None = None


@dataclass(frozen=True)
class ResidentFit:
    """Resident set of a training process on CPU: ``baseline + weights + bytes_per_heap_byte * heap``.

    Attributes:
        baseline_bytes: Process after imports plus what the first steps load (thread pools, kernels), without tensors.
        bytes_per_heap_byte: What is resident for one byte that the traced allocations make the heap grow; kernels that
            keep buffers of their own make it more than 1.
        residual_relative: Root mean square of the relative errors of the whole resident set.
        samples: Points behind the fit.
    """

    baseline_bytes: int
    bytes_per_heap_byte: float
    residual_relative: float
    samples: int


@dataclass(frozen=True)
class HeldOutError:
    """Relative errors of the step time on configurations that the fit did not see.

    Attributes:
        median, worst: Of ``|predicted / measured - 1|``.
        samples: Configurations.
        how: ``"cross-validation"`` (``"held back in turn"`` in older files).
    """

    median: float
    worst: float
    samples: int
    how: str


@dataclass(frozen=True)
class Contribution:
    """Where a part of a calibration's raw data comes from.

    Attributes:
        measured_at: When measuring it began; ISO 8601, UTC.
        advisor_version: That measured it.
        machine: What it was measured on: processor, cores, driver and the like; no host name.
        replays, points: How many of them are still in the calibration.
        file: Name of the file it was imported from; empty when it was measured here.
        checksum: Of that file's content.
    """

    measured_at: str
    advisor_version: str
    machine: dict[str, str]
    replays: int = 0
    points: int = 0
    file: str = ""
    checksum: str = ""


@dataclass(frozen=True)
class Calibration:
    """Everything that calibrating one device with one set of library versions found.

    Attributes:
        device_id: Profile it belongs to.
        versions: Libraries, driver and thread count that decide speed; predictions refuse to mix them.
        created_at: ISO 8601, UTC.
        classes: Class table by class and data type, ``"norm/float32"``.
        operators: The same for single operators with enough replays of their own, ``"norm/float32/native_layer_norm"``.
        step: From operators to steps; ``None`` when no real step was measured.
        evaluation: The same for an evaluation pass, where one was measured.
        model_ratios: By model key: how much longer that model's own steps took than ``step`` predicts.
        resident: CPU only.
        held_out: How well it predicts what it did not see.
        replays, points: Raw data.
        seconds: What calibrating took.
        partial: Why parts are missing, when they are.
        notes: Warnings for the user.
        covered: Configurations whose operators were all replayed (``case_key`` of ``calibration.measure``); they need
            not be traced again.
        provenance: Who measured what; the points name their entry.
        transferred: Versions that differ from those in use now, one line each. Only set on a calibration that was
            loaded to predict for a device that is not at hand; its figures are then ``"transferred"``, not
            ``"calibrated"``, and their intervals wider. Never stored.
    """

    device_id: str
    versions: dict[str, str]
    created_at: str
    classes: dict[str, ClassFit]
    operators: dict[str, ClassFit] = field(default_factory=dict)
    step: StepFit | None = None
    evaluation: StepFit | None = None
    model_ratios: dict[str, float] = field(default_factory=dict)
    resident: ResidentFit | None = None
    held_out: HeldOutError | None = None
    replays: tuple[ReplayPoint, ...] = ()
    points: tuple[StepPoint, ...] = ()
    seconds: float = 0.0
    partial: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)
    covered: tuple[str, ...] = ()
    provenance: tuple[Contribution, ...] = ()
    transferred: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def version_differences(
    before: Mapping[str, str], now: Mapping[str, str], *, first: str = "calibrated with", second: str = "now"
) -> list[str]:
    """One line per version that differs; one that only one side knows differs too.

    Args:
        before: Versions of one side.
        now: Versions of the other.
        first: What the first side is called.
        second: What the second is called.
    """
    return [
        f"{name}: {first} {before.get(name, 'unknown')}, {second} {now.get(name, 'unknown')}"
        for name in dict.fromkeys((*now, *before))
        if before.get(name) != now.get(name)
    ]
