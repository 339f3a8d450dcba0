"""Records of a validation: one line per case, and what the whole file was measured with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import Task
from advisor.core.units import format_bytes, format_duration
from advisor.experiments.grid import Cell, CellResult
from advisor.experiments.store import RecordFormat, read_records

SCHEMA_VERSION = 1

Kind = Literal["memory", "time", "all"]
"""What the records of a file are about; ``"all"``: both, in one run."""
GridName = Literal["cpu", "cpu-wide", "cuda", "quick"]
CaseOutcome = Literal["completed", "out_of_memory", "over_time", "failed", "refused", "skipped"]
"""How a case ended: ``refused`` could not be predicted or built, ``skipped`` does not suit this machine, ``failed`` for
any other reason, so that the next call runs it again. A crashed cell is ``failed`` in these files."""

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
    device_type: str
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
    """What was predicted before the run.

    Attributes:
        intervals: 90 % intervals by quantity, low and high.
        required_bytes: The least memory with which the run still completes; ``None`` where cached memory cannot be
            returned.
        upper_bytes: Upper bound of the needed memory at the safety level.
        fits: Whether that is at most the case's capacity.
        step_s, step_interval_s: One optimizer step and its 90 % interval.
        code: Version of the tracing code and its libraries.
        calibration: When the calibration behind the step time was made; empty without one.
        step_basis, step_evidence: As in ``TimeEstimate``.
        seen: The calibration measured this configuration and shape itself.
        work: For the baselines.
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
    """What was measured.

    Attributes:
        allocated_bytes: CUDA: ``max_memory_allocated``; CPU: the profiler's memory events.
        reserved_bytes: CUDA: ``max_memory_reserved``.
        device_bytes: CUDA: NVML's figure of the process; CPU: resident set.
        baseline_bytes: The same figure before the model was built.
        allocator_retries: How often the caching allocator gave everything back and tried again.
        step_times_s: Steps in order, without the warm-up.
        reference_s: A fixed workload in the same process, before and after the steps: the machine's own speed.
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
    def ran(self) -> bool:
        """Whether the case completed or ran out of memory, so that it says something about its prediction."""
        return self.outcome in ("completed", "out_of_memory")

    @property
    def step_s(self) -> float | None:
        """Median of the timed steps; ``None`` where the case is not about time."""
        if self.measured is None or not self.repeats or not self.measured.step_times_s:
            return None
        return statistics.median(self.measured.step_times_s)

    def relative_error(self, quantity: str) -> float | None:
        """``predicted / measured - 1`` of one of ``QUANTITIES``; ``None`` where the figure was not measured."""
        measured = getattr(self.measured, quantity, None)
        return getattr(self.predicted, quantity) / measured - 1 if measured and self.predicted is not None else None


def summary_of(record: Record) -> str:
    """How a case ended, in a few words: ``"step 812 ms (+1.4%), allocated 172 MiB (-0.01%)"``."""
    if record.measured is None:
        return " ".join([record.outcome.replace("_", " "), f"({record.reason})" if record.reason else ""]).strip()
    parts = []
    if record.step_s is not None and record.predicted is not None:
        parts.append(f"step {format_duration(record.step_s)} ({record.predicted.step_s / record.step_s - 1:+.1%})")
    for quantity in QUANTITIES:
        if (error := record.relative_error(quantity)) is not None:
            measured = format_bytes(getattr(record.measured, quantity))
            parts.append(f"{quantity.removesuffix('_bytes')} {measured} ({error:+.2%})")
    return ", ".join(parts)


def record_of(cell: Cell[Any], result: CellResult[Measured]) -> Record:
    """The record of a case that has ended.

    Args:
        cell: Its payload is a ``predict.Prepared``; one that is not runnable already says how it ended.
        result: Its value is a ``Measured``.
    """
    record: Record = cell.payload.record
    if not cell.payload.runnable:
        return record
    if result.outcome == "interrupted":
        raise ValueError("an interrupted case has no record")
    return dataclasses.replace(
        record,
        outcome="failed" if result.outcome == "crashed" else result.outcome,
        reason=result.reason,
        measured=result.value,
        seconds=round(result.seconds, 3),
    )


FORMAT = RecordFormat(
    Header, Record, record_of, lambda record: record.outcome != "failed", "advisor validate", SCHEMA_VERSION
)
"""Files of version 1: a header, then one record per case."""


def file_name(header: Header) -> str:
    """One file per kind, grid, device, driver and library versions: what must be equal for records to be compared."""
    content = json.dumps([header.driver, header.memory_bytes, header.versions], sort_keys=True)
    environment = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{header.kind}-{header.grid}-{header.device_id}-{environment}.jsonl"


def read_validation(paths: Sequence[Path]) -> tuple[Header, tuple[Record, ...]]:
    """Files of one kind and device as one; of a case in several of them the last record that completed counts.

    Raises:
        InputError: no file, a missing, damaged or newer one, or files of different kinds or devices.
    """
    if not paths:
        raise InputError("--records must name a file of records, but got none")
    first, found = read_records(paths[0], FORMAT)
    for path in paths[1:]:
        header, records = read_records(path, FORMAT)
        if (header.kind, header.device_id) != (first.kind, first.device_id):
            raise InputError(
                f"files of records must be of one kind and device to be shown together, but {path} is "
                f"{header.kind} on {header.device_id} and {paths[0]} is {first.kind} on {first.device_id}",
                fix="show them one by one",
            )
        found |= {key: r for key, r in records.items() if key not in found or r.outcome == "completed"}
    return first, tuple(found.values())
