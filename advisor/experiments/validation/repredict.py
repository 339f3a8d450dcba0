"""Measured cases predicted anew by this version, on any machine: how a change of the model moves the errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from advisor.core.coefficients import Calibration
from advisor.core.errors import InputError
from advisor.experiments.validation.case import Case
from advisor.experiments.validation.predict_cases import Predict, forecasts
from advisor.experiments.validation.prediction import GridDevice
from advisor.experiments.validation.record import Header, Record


def predicted_again(
    header: Header,
    records: Sequence[Record],
    *,
    workers: int,
    calibration: Calibration | None = None,
    on_case: Callable[[str, float], None] = lambda label, share: None,
    predict: Predict | None = None,
) -> list[Record]:
    """The records with this version's predictions; what was measured stays.

    A case that cannot be predicted any more keeps no prediction and becomes ``refused``.

    Args:
        header: Its device is predicted for.
        records: Cases that never ran are returned as they are.
        workers: Processes at a time.
        calibration: Of the device.
        on_case: Told the case and the share that is done.
        predict: As in ``forecasts``.

    Raises:
        InputError: the records do not hold the profile of their device.
    """
    if header.device is None:
        raise InputError(
            f"the records of {header.device_name} must hold its profile to be predicted again, but they do not",
            fix="measure them again with this version",
        )
    setting = GridDevice(header.device, calibration, header.capacity_bytes)
    ran = [record for record in records if record.outcome in ("completed", "out_of_memory")]
    renewed: dict[str, Record] = {}
    for capacity_bytes in dict.fromkeys(record.capacity_bytes for record in ran):
        cases = {id(case): (case, r) for r in ran if r.capacity_bytes == capacity_bytes and (case := _as_run(r))}
        here = dataclasses.replace(setting, capacity_bytes=capacity_bytes)
        for case, prepared in forecasts(
            [case for case, _ in cases.values()], here, workers=workers, predict=predict, together=True
        ):
            record = cases[id(case)][1]
            renewed[record.key] = _renewed(record, prepared.record)
            on_case(record.label, len(renewed) / len(ran))
    return [renewed.get(record.key, record) for record in records]


def _renewed(record: Record, now: Record) -> Record:
    if now.predicted is None:
        return dataclasses.replace(record, predicted=None, outcome="refused", reason=now.reason)
    return dataclasses.replace(record, predicted=now.predicted)


def _as_run(record: Record) -> Case:
    """The case with the rows and the capacity that it was run with, however they were chosen then."""
    return Case(
        model=record.model,
        method=record.method,
        rows=record.rows,
        length=record.length,
        task=record.task,
        knobs=record.knobs,
        execution=record.execution,
        mixed_lengths=record.mixed_lengths,
        repeats=record.repeats,
        again=record.again,
    )
