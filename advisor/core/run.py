"""Measurements of a run, and how they compare with its plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from advisor.core.benchmark import Benchmark
from advisor.core.errors import AdvisorError, InputError
from advisor.core.pack import PackMembership
from advisor.core.plan import Plan
from advisor.core.serialization import LATER, from_dict, read_json

ProcessOutcome = Literal["completed", "out_of_memory", "over_time", "interrupted", "failed"]
"""How a process ends."""

Outcome = Literal[ProcessOutcome, "diverged"]
"""``diverged``: the weights or the held-out loss stopped being finite numbers; such a run has no result."""

SAVE_EVERY_S = 60.0
"""How much work a kill may cost at most, apart from one step."""

SAVING_SHARE = 0.05
"""Checkpoints are spaced so that writing them takes at most this share of the time."""


@dataclass(frozen=True)
class Measurement:
    """Raw figures of one run; derived ones are computed when needed.

    Attributes:
        outcome: How it ended. Anything but ``"completed"`` may leave later fields empty.
        reason: One sentence when it did not complete.
        allocated_peak_bytes: CUDA: ``max_memory_allocated``; CPU: profiler memory events of measured steps on the
            longest batch, plus what was live before; ``None`` if not measured.
        reserved_peak_bytes: CUDA: ``max_memory_reserved``; CPU: ``None``.
        device_peak_bytes: CUDA: NVML figure of the process; CPU: peak resident set of the process.
        baseline_bytes: The same figure after imports, before the model.
        step_times_s: Every optimizer step in order, wall clock, synchronised.
        loading_s, training_s, evaluation_s, saving_s, total_s: Wall clock of the parts.
        parts_s: The same in finer parts, named like those of ``TimeEstimate.parts``; they add up to ``total_s``.
        energy_j: What the device took from begin to end of the run, in joules; ``None`` where it does not say.
        energy_source: Which meter said so, or why there is no figure.
        wall_s: By the clock, from the command's request to its end: ``total_s`` and what a run's own clock can't see,
            which is starting processes, importing libraries, and the profiled step; ``None`` in older records.
        load: What other programs left of the processor meanwhile, in words; empty when they left enough.
        train_losses: ``(optimizer step, loss)`` as logged.
        metrics: Held-out metrics of the final model, for example ``{"accuracy": 0.81, "eval_loss": 0.42}``.
        metric_history: Held-out metrics along the way as ``(optimizer step, metrics)``.
        trainable_parameters, total_parameters: Counted on the real model (quantised weights at their logical size).
        achieved_sparsity: Share of zeros among the trained weights, of a method that prunes.
        benchmark: Everything that is said of a finished run; ``None`` where it was not asked for.
        pack: Of a run that was trained together with others: memory, times and energy are those of all of them.
    """

    outcome: Outcome
    reason: str = ""
    allocated_peak_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    baseline_bytes: int | None = None
    step_times_s: tuple[float, ...] = ()
    loading_s: float = 0.0
    training_s: float = 0.0
    evaluation_s: float = 0.0
    saving_s: float = 0.0
    total_s: float = 0.0
    train_losses: tuple[tuple[int, float], ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    metric_history: tuple[tuple[int, dict[str, float]], ...] = ()
    trainable_parameters: int = 0
    total_parameters: int = 0
    achieved_sparsity: float | None = None
    parts_s: dict[str, float] = field(default_factory=dict)
    energy_j: float | None = None
    energy_source: str = ""
    benchmark: Benchmark | None = None
    wall_s: float | None = None
    load: str = ""
    pack: PackMembership | None = field(default=None, metadata=LATER)

    @property
    def members(self) -> int:
        """How many runs its times and energy are those of."""
        return self.pack.members if self.pack is not None else 1


@dataclass(frozen=True)
class Verification:
    """One predicted figure beside the measured one.

    Attributes:
        quantity: For example ``"memory.allocated_bytes"``, ``"time.step_s"``, ``"quality.value"``.
        predicted, measured: In base units.
        low, high: The predicted interval.
        verdict: ``"inside"``, ``"outside"``, or ``"not measured"``.
        relative_error: ``predicted / measured - 1``; for qualities the difference in points.
    """

    quantity: str
    predicted: float
    measured: float | None
    low: float | None
    high: float | None
    verdict: Literal["inside", "outside", "not measured"]
    relative_error: float | None


@dataclass(frozen=True)
class RunRecord:
    """``record.json``: plan, environment, raw samples, predictions and verdicts of one run.

    Attributes:
        plan: As it was run.
        measurement: What was measured.
        verifications: Every predicted figure beside the measured one.
        device_id: Profile id of the machine that ran it.
        versions: Library versions of the run.
        started_at: Date and time, ISO 8601.
        output_dir: Folder of the result.
        resumed_from_step: Optimizer step that the last start continued from; 0 for an uninterrupted run.
        schema_version: Of the file's format.
    """

    plan: Plan
    measurement: Measurement
    verifications: tuple[Verification, ...]
    device_id: str
    versions: dict[str, str]
    started_at: str
    output_dir: str
    resumed_from_step: int = 0
    schema_version: int = 1


def load_record(path: Path, *, what: str = "the record", error: type[AdvisorError] = InputError) -> RunRecord:
    """A run's ``record.json``.

    Args:
        path: Of the file.
        what: What it is to the user.
        error: Raised where it cannot be read.

    Raises:
        AdvisorError: ``error``, when the file is missing, unreadable, or not JSON; ``InputError`` when it is no record.
    """
    return from_dict(RunRecord, read_json(path, what=what, error=error), what=str(path))
