"""Predictions of many cases, several at a time, each in a process of its own.

On a machine with a GPU tracing makes a CUDA context; in processes that are gone before the first case runs, it takes
nothing away from the device that is measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool

from advisor.core.coefficients import Calibration
from advisor.core.errors import InputError
from advisor.experiments.grid import Cell
from advisor.experiments.validation.cases import Case
from advisor.experiments.validation.predict import GridDevice, Prepared, case_as_run, prepare_all, unpredicted
from advisor.experiments.validation.records import Header, Record
from advisor.measurement.isolation import isolated

MOST_WORKERS = 8
"""Tracing processes at a time: each holds about half a gigabyte."""
PREDICTION_LIMIT_S = 300.0

Predict = Callable[[Sequence[Case], GridDevice], list[Prepared]]
"""Prepares some cases."""


def predict_in_own_process(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
    """Prepare some cases in a process of their own; a process that fails leaves ``failed`` records."""
    try:
        result = isolated(prepare_all, cases, where, timeout_s=PREDICTION_LIMIT_S * len(cases))
    except OSError as failure:
        reason = f"the predicting process could not start: {failure}"
    else:
        if result.value is not None:
            return result.value
        reason = f"the prediction ended with {result.reason}"
    return [Prepared(unpredicted(case, where, "failed", reason)) for case in cases]


def predict_cases(
    batches: Sequence[Sequence[Case]],
    where: GridDevice,
    *,
    workers: int,
    deadline_s: float | None = None,
    predict: Predict = predict_in_own_process,
) -> Iterator[tuple[Case, Prepared]]:
    """Prepare cases, in the order in which they get ready.

    Args:
        batches: Cases that share a call of ``predict``, the first needed first.
        where: Where they will run.
        workers: Calls at a time.
        deadline_s: No call begins after this moment of ``time.monotonic``; the remaining cases are left out.
        predict: Prepares the cases of a batch.
    """

    def work(batch: Sequence[Case]) -> list[tuple[Case, Prepared]]:
        if deadline_s is not None and time.monotonic() >= deadline_s:
            return []
        return list(zip(batch, predict(batch, where), strict=True))

    # Threads of such a pool are daemons: after Ctrl-C nobody waits for them, and their processes end with this one.
    with ThreadPool(max(1, min(workers, MOST_WORKERS, len(batches)))) as pool:
        for answers in pool.imap_unordered(work, batches):
            yield from answers


def predicted_cells(
    cells: Sequence[Cell[Case]],
    where: GridDevice,
    expected_s: Callable[[Record], float],
    *,
    workers: int,
    deadline_s: float | None = None,
    on_case: Callable[[str, float], None] = lambda label, share: None,
    predict: Predict = predict_in_own_process,
) -> list[Cell[Prepared]]:
    """The cells of a grid with their predictions, as many as the time allows, in the order of the grid.

    Args:
        cells: Of the grid.
        where: Where they will run.
        expected_s: Duration of a case with a prediction.
        workers: Predictions at a time.
        deadline_s: No prediction begins after this moment of ``time.monotonic``.
        on_case: Called with a case's label and the share that is done.
        predict: As in :func:`predict_cases`.
    """
    found: dict[str, Prepared] = {}
    batches = [[cell.payload] for cell in cells]
    for case, prepared in predict_cases(batches, where, workers=workers, deadline_s=deadline_s, predict=predict):
        found[prepared.record.key] = prepared
        on_case(case.label, len(found) / len(cells))
    return [
        Cell(cell.key, cell.label, ready, expected_s(ready.record) if ready.runnable else 0.0)
        for cell in cells
        if (ready := found.get(cell.key)) is not None
    ]


def repredict(
    header: Header,
    records: Sequence[Record],
    *,
    workers: int,
    calibration: Calibration | None = None,
    on_case: Callable[[str, float], None] = lambda label, share: None,
    predict: Predict = predict_in_own_process,
) -> tuple[Record, ...]:
    """The records with this version's predictions, made on any machine; the measurements stay.

    A case that can no longer be predicted keeps no prediction and becomes ``refused``.

    Args:
        header: Its device is predicted for.
        records: Cases that never ran are returned as they are.
        workers: Processes at a time.
        calibration: Of the device.
        on_case: Called with a case's label and the share that is done.
        predict: As in :func:`predict_cases`.

    Raises:
        InputError: the records do not hold the profile of their device.
    """
    if header.device is None:
        raise InputError(
            f"the records of {header.device_name} must hold its profile to be predicted again, but they do not",
            fix="measure them again with this version",
        )
    ran = [record for record in records if record.ran]
    renewed: dict[str, Record] = {}
    for capacity_bytes in dict.fromkeys(record.capacity_bytes for record in ran):
        of_case: dict[int, Record] = {}
        # Cases of one model and method share traces, so they share a process.
        batches: dict[tuple[str, str], list[Case]] = {}
        for record in ran:
            if record.capacity_bytes == capacity_bytes:
                case = case_as_run(record)
                of_case[id(case)] = record
                batches.setdefault((case.model, case.method), []).append(case)
        where = GridDevice(header.device, calibration, capacity_bytes)
        for case, prepared in predict_cases(list(batches.values()), where, workers=workers, predict=predict):
            record, now = of_case[id(case)], prepared.record
            gone = {"outcome": "refused", "reason": now.reason} if now.predicted is None else {}
            renewed[record.key] = dataclasses.replace(record, predicted=now.predicted, **gone)  # type: ignore[arg-type]
            on_case(record.label, len(renewed) / len(ran))
    return tuple(renewed.get(record.key, record) for record in records)
