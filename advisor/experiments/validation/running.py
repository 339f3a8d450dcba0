"""Runs prepared cases one after another and keeps a record of each as soon as it has ended."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from advisor.core.device import DeviceType
from advisor.experiments.validation.journal import Journal
from advisor.experiments.validation.measurement_protocol import procedure, request_of
from advisor.experiments.validation.prediction import Prepared
from advisor.experiments.validation.record import Kind, Measured, Record
from advisor.measurement.isolation import Result
from advisor.measurement.validation import CaseMeasurement, CaseRequest, measure_case

START_S: dict[DeviceType, float] = {"cpu": 2.0, "cuda": 6.0}
"""Assumed before anything was measured: process, model, optimizer and, on CUDA, the context."""
FIRST_RATIO = 1.5
"""Assumed before anything was measured: how much longer a case takes than predicted."""
REMEMBERED = 5
LEAST_LIMIT_S, LIMIT_RATIO = 120.0, 10.0
"""A case that takes ten times as long as expected is stuck."""

Stopped = Literal["", "time limit", "interrupted"]
Measure = Callable[[CaseRequest, float], Result[CaseMeasurement]]


class CaseDurations:
    """How long the next case will take, by its predicted step and by how the last ones came out.

    Args:
        device_type: Where the cases run.
        known: Records of earlier cases.
        kind: What is measured; it decides how many steps a case takes.
    """

    def __init__(self, device_type: DeviceType, known: Iterable[Record] = (), kind: Kind = "memory") -> None:
        self._device_type: DeviceType = device_type
        self._kind: Kind = kind
        self._ratios: list[float] = []
        for record in known:
            self.learn(record)

    def expected_s(self, record: Record) -> float:
        """Of a case with a prediction."""
        return max(self._ratios[-REMEMBERED:], default=FIRST_RATIO) * self._predicted_s(record)

    def learn(self, record: Record) -> None:
        """Take a finished case into account."""
        if record.outcome == "completed" and record.predicted is not None:
            self._ratios.append(record.seconds / self._predicted_s(record))

    def _predicted_s(self, record: Record) -> float:
        step_s = record.predicted.step_s if record.predicted is not None else 0.0
        steps = procedure(record, self._kind, self._device_type).all_steps
        return START_S[self._device_type] + step_s * steps


def run_cases(
    cases: Sequence[Prepared],
    journal: Journal,
    device_type: DeviceType,
    *,
    deadline_s: float | None = None,
    on_case: Callable[[Record], None] = lambda record: None,
    measure: Measure | None = None,
) -> Stopped:
    """Run what is runnable, and keep the reason of what is not.

    Args:
        cases: In the order in which they run.
        journal: Open; every case is on disk before the next one begins.
        device_type: Where to run.
        deadline_s: No case is begun that would end after this moment of ``time.monotonic``; the first one always is.
        on_case: Told each record.
        measure: Runs one case; in a process of its own when not given.

    Returns:
        Why it ended before the last case, if it did.

    Raises:
        OutputError: a record could not be written.
    """
    measure = measure or (lambda request, limit_s: measure_case(request, timeout_s=limit_s))
    kind = journal.header.kind
    pace = CaseDurations(device_type, journal.records.values(), kind)
    begun = 0
    for case in cases:
        record = case.record
        if case.runnable:
            expected_s = pace.expected_s(record)
            if deadline_s is not None and begun and time.monotonic() + expected_s > deadline_s:
                return "time limit"
            begun += 1
            result = measure(request_of(case, kind, device_type), max(LEAST_LIMIT_S, LIMIT_RATIO * expected_s))
            if result.outcome == "interrupted":
                return "interrupted"
            record = finished(record, result)
            pace.learn(record)
        journal.append(record)
        on_case(record)
    return ""


def finished(record: Record, result: Result[CaseMeasurement]) -> Record:
    """The record of a case with what its process brought back."""
    outcome, reason = result.outcome, " ".join(result.reason.split())
    if outcome == "interrupted":
        raise ValueError("an interrupted case has no record")
    refused = outcome == "failed" and result.error is not None
    value = result.value
    measured = None
    if value is not None:
        figures = {field.name: getattr(value.figures, field.name) for field in dataclasses.fields(value.figures)}
        measured = Measured(
            **figures,
            step_times_s=value.step_times_s,
            reference_s=value.reference_s,
            trainable_parameters=value.trainable_parameters,
        )
    return dataclasses.replace(
        record,
        outcome="refused" if refused else outcome,
        reason=reason,
        measured=measured,
        seconds=round(result.wall_s, 3),
    )
