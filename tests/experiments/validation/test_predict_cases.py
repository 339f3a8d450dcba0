"""Predictions of many cases: several at a time, until a deadline, and of measured cases anew."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.experiments.validation.cases import Case, cells_of
from advisor.experiments.validation.predict import (
    GridDevice,
    Prepared,
    configure_case,
    predict_cases,
    predicted_cells,
    repredict,
    unpredicted,
)
from tests.experiments.validation.records import MIB, header, predicted, record

DEVICE = DeviceProfile(id="cpu-test", name="a pretended CPU", type="cpu", memory_bytes=8 * 2**30)
HEADER = dataclasses.replace(header(), device=DEVICE)
HERE = GridDevice(DEVICE, None, DEVICE.memory_bytes)
CASES = [Case("bert-small", "lora", rows, 32) for rows in range(1, 9)]


def skipped(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
    return [Prepared(unpredicted(case, where, "skipped", "not needed")) for case in cases]


def test_predictions_stop_at_the_deadline_and_come_with_their_case() -> None:
    busy = threading.Semaphore(2)

    def predict(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
        assert busy.acquire(blocking=False)  # never more than two at a time
        time.sleep(0.02)
        busy.release()
        return skipped(cases, where)

    batches = [CASES[:3], *([case] for case in CASES[3:])]
    found = list(predict_cases(batches, HERE, workers=2, predict=predict))
    assert sorted(case.rows for case, _ in found) == list(range(1, 9))
    assert all(prepared.record.rows == case.rows for case, prepared in found)
    assert not list(predict_cases(batches, HERE, workers=2, deadline_s=time.monotonic() - 1, predict=predict))


def test_cells_get_their_prediction_and_their_duration_in_the_order_of_the_grid() -> None:
    def predict(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
        (case,) = cases
        if case.rows == 2:
            return skipped(cases, where)
        time.sleep(0.01 * (4 - case.rows))  # the first one is ready last
        known = dataclasses.replace(unpredicted(case, where, "failed", "not run yet"), predicted=predicted(MIB))
        return [Prepared(known, configure_case(case))]

    shares: list[float] = []
    grid = cells_of(CASES[:3])
    cells = predicted_cells(
        grid, HERE, lambda record: 7.0, workers=3, on_case=lambda _, share: shares.append(share), predict=predict
    )
    assert [cell.key for cell in cells] == [cell.key for cell in grid]
    assert [cell.expected_s for cell in cells] == [7.0, 0.0, 7.0]
    assert [cell.payload.runnable for cell in cells] == [True, False, True]
    assert max(shares) == 1.0


def test_predictions_are_new_and_measurements_stay() -> None:
    asked: list[tuple[int, int]] = []

    def predict(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
        (case,) = cases
        asked.append((case.rows, where.capacity_bytes))
        assert where.device == DEVICE
        assert (case.fill, case.room) == (None, None)
        if case.rows == 9:
            return [Prepared(unpredicted(case, where, "refused", "no longer traced"))]
        found = unpredicted(case, where, "skipped", "does not matter")
        return [Prepared(dataclasses.replace(found, predicted=predicted(123 * MIB)))]

    small = dataclasses.replace(
        record("small", promised=predicted(MIB), outcome="out_of_memory"), capacity_bytes=2**30, rows=4
    )
    records = [
        record("a", promised=predicted(MIB), allocated_bytes=122 * MIB),
        small,
        record("never", outcome="skipped"),
        dataclasses.replace(record("gone", promised=predicted(MIB), allocated_bytes=MIB), rows=9, method="full"),
    ]
    shares: list[float] = []
    again = repredict(HEADER, records, workers=2, on_case=lambda label, share: shares.append(share), predict=predict)
    assert sorted(asked) == [(4, 2**30), (8, 8 * 2**30), (9, 8 * 2**30)]
    assert [r.key for r in again] == ["a", "small", "never", "gone"]
    assert again[0].predicted == again[1].predicted == predicted(123 * MIB)
    assert again[0].measured == records[0].measured
    assert again[1].outcome == "out_of_memory"
    assert again[2] == records[2]
    assert (again[3].outcome, again[3].predicted, again[3].reason) == ("refused", None, "no longer traced")
    assert shares[-1] == 1.0


def test_cases_of_one_model_and_method_are_predicted_in_one_process() -> None:
    batches: list[int] = []

    def predict(cases: Sequence[Case], where: GridDevice) -> list[Prepared]:
        batches.append(len(cases))
        return skipped(cases, where)

    records = [record(str(i), promised=predicted(MIB), allocated_bytes=MIB, method=m) for i, m in enumerate("aab")]
    repredict(HEADER, records, workers=1, predict=predict)
    assert sorted(batches) == [1, 2]


def test_records_without_a_profile_cannot_be_predicted_again() -> None:
    with pytest.raises(InputError, match="profile"):
        repredict(header(), [], workers=1)
