"""Measured cases are predicted anew with the rows and the capacity that they were run with."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.experiments.validation.case import Case
from advisor.experiments.validation.prediction import GridDevice, Prepared, draft
from advisor.experiments.validation.repredict import predicted_again
from tests.experiments.validation.records import MIB, header, predicted, record

DEVICE = DeviceProfile(id="cpu-test", name="a pretended CPU", type="cpu", memory_bytes=8 * 2**30)
HEADER = dataclasses.replace(header(), device=DEVICE)


def test_predictions_are_new_and_measurements_stay() -> None:
    asked: list[tuple[int, int]] = []

    def predict(case: Case, setting: GridDevice) -> Prepared:
        asked.append((case.rows, setting.capacity_bytes))
        assert setting.device == DEVICE
        assert case.fill is None
        assert case.room is None
        if case.rows == 9:
            return Prepared(draft(case, setting, "refused", "no longer traced"), runnable=False)
        found = draft(case, setting, "skipped", "does not matter")
        return Prepared(dataclasses.replace(found, predicted=predicted(123 * MIB)), runnable=False)

    small = dataclasses.replace(
        record("small", promised=predicted(MIB), outcome="out_of_memory"), capacity_bytes=2**30, rows=4
    )
    records = [
        record("a", promised=predicted(MIB), allocated_bytes=122 * MIB),
        small,
        record("never", outcome="skipped"),
        dataclasses.replace(record("gone", promised=predicted(MIB), allocated_bytes=MIB), rows=9),
    ]
    shares: list[float] = []
    again = predicted_again(
        HEADER, records, workers=2, on_case=lambda label, share: shares.append(share), predict=predict
    )
    assert sorted(asked) == [(4, 2**30), (8, 8 * 2**30), (9, 8 * 2**30)]
    assert [r.key for r in again] == ["a", "small", "never", "gone"]
    assert again[0].predicted == again[1].predicted == predicted(123 * MIB)
    assert again[0].measured == records[0].measured
    assert again[1].outcome == "out_of_memory"
    assert again[2] == records[2]
    assert (again[3].outcome, again[3].predicted, again[3].reason) == ("refused", None, "no longer traced")
    assert shares[-1] == 1.0


def test_records_without_a_profile_cannot_be_predicted_again() -> None:
    with pytest.raises(InputError, match="profile"):
        predicted_again(header(), [], workers=1)
