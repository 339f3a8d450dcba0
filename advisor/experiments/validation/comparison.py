"""How far predictions and measurements are apart: errors by group, interval coverage, and the verdicts of ``fits``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from advisor.core.device import DeviceType
from advisor.experiments.validation.record import QUANTITIES, Record
from advisor.experiments.validation.summary import percentile_90

WORST = 5
SIZES = ((1e7, "below 10M"), (1e8, "10M-100M"), (5e8, "100M-500M"), (2e9, "0.5B-2B"), (5e9, "2B-5B"))
LARGEST = "above 5B"
DEFAULT_OPTIMIZER = "adamw_torch_fused"


@dataclass(frozen=True)
class ErrorStatistics:
    """Absolute relative errors of one quantity.

    Attributes:
        count: Cases with this figure.
        median, p90, worst: Of ``|predicted / measured - 1|``.
        bias: Median of ``predicted / measured - 1``.
        inside: Cases whose 90 % interval held the measured figure.
    """

    count: int
    median: float
    p90: float
    worst: float
    bias: float
    inside: int


@dataclass(frozen=True)
class Group:
    """Cases that share a value.

    Attributes:
        by: What they share: ``"method"``, ``"size"``, ``"attention"``, ``"optimizer"``, ``"checkpointing"``,
            ``"precision"``, or ``"all"``.
        value: The value.
        errors: By quantity; a quantity that was not measured is missing.
    """

    by: str
    value: str
    count: int
    errors: dict[str, ErrorStatistics]


@dataclass(frozen=True)
class Fits:
    """Predicted ``fits`` against what happened.

    Attributes:
        fitted_and_ran, refused_and_out_of_memory: Right.
        violations: Labels of cases that were predicted to fit and ran out of memory.
        false_refusals: Labels of cases that were predicted not to fit and ran.
    """

    fitted_and_ran: int
    refused_and_out_of_memory: int
    violations: tuple[str, ...]
    false_refusals: tuple[str, ...]

    @property
    def false_refusal_share(self) -> float:
        """Of the cases that ran."""
        ran = self.fitted_and_ran + len(self.false_refusals)
        return len(self.false_refusals) / ran if ran else 0.0


@dataclass(frozen=True)
class AcceptanceThreshold:
    """A bound that the figures should keep.

    Attributes:
        passed: ``None`` where nothing was measured.
    """

    name: str
    limit: float
    value: float | None
    passed: bool | None


@dataclass(frozen=True)
class WorstCase:
    """One of the largest errors of a quantity."""

    quantity: str
    label: str
    predicted_bytes: int
    measured_bytes: int
    error: float


@dataclass(frozen=True)
class GridComparison:
    """Everything that a table of errors says.

    Attributes:
        outcomes: Cases by how they ended.
        groups: All cases first, then by what they share.
    """

    outcomes: dict[str, int]
    groups: tuple[Group, ...]
    fits: Fits
    bars: tuple[AcceptanceThreshold, ...]
    worst: tuple[WorstCase, ...]


def compare(records: Iterable[Record], device_type: DeviceType) -> GridComparison:
    """Compare every completed case with its prediction, and every ending with ``fits``; each configuration once."""
    everything = sorted((record for record in records if not record.again), key=lambda record: record.label)
    ran = [record for record in everything if record.outcome == "completed"]
    groups = [group for group in [_group("all", "all", ran)] if group.count]
    for by, value_of in GROUPINGS.items():
        for value in dict.fromkeys(value_of(record) for record in sorted(ran, key=lambda r: r.total_parameters)):
            groups.append(_group(by, value, [record for record in ran if value_of(record) == value]))
    fits = _fits(everything)
    outcomes = {outcome: sum(r.outcome == outcome for r in everything) for outcome in _outcomes(everything)}
    return GridComparison(outcomes, tuple(groups), fits, _bars(groups, fits, device_type), _worst(ran))


def _outcomes(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record.outcome for record in records))


def size_of(record: Record) -> str:
    """The size class of a case's model."""
    return next((name for limit, name in SIZES if record.total_parameters < limit), LARGEST)


def precision_of(record: Record) -> str:
    """Data type of the weights, and mixed precision if there is any."""
    amp = record.execution.get("amp")
    return str(record.execution.get("dtype", "float32")) + (f" + {amp} amp" if amp else "")


GROUPINGS: dict[str, Callable[[Record], str]] = {
    "method": lambda record: record.method,
    "size": size_of,
    "attention": lambda record: str(record.execution.get("attn_implementation")),
    "optimizer": lambda record: str(record.execution.get("optim", DEFAULT_OPTIMIZER)),
    "checkpointing": lambda record: "on" if record.execution.get("gradient_checkpointing") else "off",
    "precision": precision_of,
}


def relative_error(record: Record, quantity: str) -> float | None:
    """``predicted / measured - 1``; ``None`` where the figure was not measured."""
    measured = getattr(record.measured, quantity, None)
    return getattr(record.predicted, quantity) / measured - 1 if measured and record.predicted is not None else None


def _group(by: str, value: str, records: Sequence[Record]) -> Group:
    errors = {quantity: _errors(records, quantity) for quantity in QUANTITIES}
    return Group(by, value, len(records), {name: found for name, found in errors.items() if found is not None})


def _errors(records: Sequence[Record], quantity: str) -> ErrorStatistics | None:
    signed = {record.key: error for record in records if (error := relative_error(record, quantity)) is not None}
    if not signed:
        return None
    sizes = [abs(error) for error in signed.values()]
    return ErrorStatistics(
        count=len(sizes),
        median=statistics.median(sizes),
        p90=percentile_90(sizes),
        worst=max(sizes),
        bias=statistics.median(signed.values()),
        inside=sum(_inside(record, quantity) for record in records if record.key in signed),
    )


def _inside(record: Record, quantity: str) -> bool:
    interval = record.predicted.intervals.get(quantity) if record.predicted is not None else None
    return interval is not None and interval[0] <= getattr(record.measured, quantity) <= interval[1]


def _fits(records: Sequence[Record]) -> Fits:
    decided = [r for r in records if r.outcome in ("completed", "out_of_memory") and r.predicted is not None]

    def labels(fits: bool, outcome: str) -> tuple[str, ...]:
        return tuple(r.label for r in decided if r.predicted and r.predicted.fits is fits and r.outcome == outcome)

    return Fits(
        fitted_and_ran=len(labels(True, "completed")),
        refused_and_out_of_memory=len(labels(False, "out_of_memory")),
        violations=labels(True, "out_of_memory"),
        false_refusals=labels(False, "completed"),
    )


CUDA_BARS = (
    ("allocated_bytes", "median", 0.01),
    ("allocated_bytes", "worst", 0.03),
    ("reserved_bytes", "median", 0.03),
    ("reserved_bytes", "worst", 0.08),
    ("device_bytes", "median", 0.05),
)
CPU_BARS = (("allocated_bytes", "worst", 0.001),)
MOST_FALSE_REFUSALS = 0.05


def _bars(groups: Sequence[Group], fits: Fits, device_type: DeviceType) -> tuple[AcceptanceThreshold, ...]:
    errors = groups[0].errors if groups else {}
    bars = []
    for quantity, statistic, limit in CUDA_BARS if device_type == "cuda" else CPU_BARS:
        value = getattr(errors.get(quantity), statistic, None)
        bars.append(
            AcceptanceThreshold(f"{quantity} {statistic}", limit, value, None if value is None else value <= limit)
        )
    decided = bool(groups) or bool(fits.violations) or bool(fits.refused_and_out_of_memory)
    violations, share = float(len(fits.violations)), fits.false_refusal_share
    bars.append(
        AcceptanceThreshold("fits but ran out of memory", 0.0, violations, violations == 0 if decided else None)
    )
    bars.append(
        AcceptanceThreshold(
            "false refusals", MOST_FALSE_REFUSALS, share, share <= MOST_FALSE_REFUSALS if decided else None
        )
    )
    return tuple(bars)


def _worst(records: Sequence[Record]) -> tuple[WorstCase, ...]:
    found = []
    for quantity in QUANTITIES:
        signed = [(error, r) for r in records if (error := relative_error(r, quantity)) is not None]
        for error, record in sorted(signed, key=lambda pair: -abs(pair[0]))[:WORST]:
            predicted, measured = getattr(record.predicted, quantity), getattr(record.measured, quantity)
            found.append(WorstCase(quantity, record.label, predicted, measured, error))
    return tuple(found)
