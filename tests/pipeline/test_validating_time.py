"""Step times: one tiny real run, its report, and the same records predicted anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from advisor.core.coefficients import Calibration, ClassFit
from advisor.core.errors import AdvisorError, InputError
from advisor.core.serialization import to_json
from advisor.experiments.store import RecordStore
from advisor.experiments.validation.cases import Case
from advisor.experiments.validation.records import FORMAT
from advisor.pipeline.validating import recorded_validation, validate
from tests.experiments.validation.records import header, timed
from tests.pipeline.test_validating import this_machine as this_machine

CASE = Case("bert-small", "head", 2, 16, execution={"num_threads": 1}, repeats=3)
CASES = (CASE, dataclasses.replace(CASE, again=1), dataclasses.replace(CASE, repeats=0, method="full", length=1024))


def test_step_times_are_measured_compared_and_predicted_anew(tmp_path: Path) -> None:
    found = validate("time", grid="cpu", cases=CASES, output=tmp_path / "out")
    assert (found.remaining, found.comparison) == (0, None)
    assert found.path.name.startswith("time-cpu-cpu-test-")
    assert json.loads(found.path.read_text().splitlines()[0])["kind"] == "time"
    times = found.times
    assert times is not None
    counts = {(row.by, row.value): row.count for row in times.errors}
    assert (times.cases, counts["noise", "measured twice"], counts["noise", "reference workload"]) == (1, 1, 2)
    assert times.errors[0].intervals == 1
    assert {("baseline", "advisor"), ("baseline", "two-ceiling roofline")} <= counts.keys()
    first = found.records[0]
    assert first.measured is not None
    assert len(first.measured.step_times_s) == 9  # a short step: three times as often
    assert len(first.measured.reference_s) == 2
    assert first.measured.allocated_bytes is None
    assert first.step_s is not None

    calibration = Calibration("cpu-test", {}, "", {"gemm/float32": ClassFit(1.0, 0, 0, 0, 0, 9, 0.1, 10**12, 10**12)})
    (tmp_path / "slow.json").write_text(to_json(calibration))
    slow = recorded_validation(found.path, predict_again=True, calibration=tmp_path / "slow.json")
    assert slow.times is not None
    assert slow.times.errors[0].p50 > 10  # a second for every matrix product
    assert [record.measured for record in slow.records] == [record.measured for record in found.records]
    other = dataclasses.replace(calibration, device_id="cpu-other")
    (tmp_path / "other.json").write_text(to_json(other))
    with pytest.raises(InputError, match="cpu-other"):
        recorded_validation(found.path, predict_again=True, calibration=tmp_path / "other.json")
    with pytest.raises(AdvisorError, match="calibration"):
        recorded_validation(found.path, predict_again=True, calibration=tmp_path / "none.json")


def test_several_files_of_one_run_count_as_one(tmp_path: Path) -> None:
    files = [tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "memory.jsonl"]
    failed = dataclasses.replace(timed("b", 9.0), outcome="failed", measured=None)
    for path, kind, records in (
        (files[0], "time", [timed("a", 1.0, 1.1), failed]),
        (files[1], "time", [timed("b", 2.0, 2.1, rows=2), dataclasses.replace(failed, key="a")]),
        (files[2], "memory", []),
    ):
        with RecordStore(path, header(kind), FORMAT) as store:  # type: ignore[arg-type]
            for record in records:
                store.add(record)
    found = recorded_validation(files[:2])
    assert [(record.key, record.outcome) for record in found.records] == [("a", "completed"), ("b", "completed")]
    assert found.times is not None
    assert found.times.cases == 2
    with pytest.raises(InputError, match="one kind and device"):
        recorded_validation(files)
    with pytest.raises(InputError, match="got none"):
        recorded_validation([])


def test_what_is_shown_of_records(tmp_path: Path) -> None:
    path = tmp_path / "time.jsonl"
    with RecordStore(path, header("time"), FORMAT) as store:
        store.add(timed("a", 1.0))
    shown = {what: recorded_validation(path, what=what) for what in ("all", "time", "memory")}
    assert [what for what, found in shown.items() if found.times is not None] == ["all", "time"]
    assert [what for what, found in shown.items() if found.comparison is not None] == ["memory"]
    other = tmp_path / "memory.jsonl"
    with RecordStore(other, header("memory"), FORMAT) as store:
        store.add(timed("a", 1.0))
    with pytest.raises(InputError, match="must hold step times") as refused:
        recorded_validation(other, what="time")
    assert refused.value.fix == f"advisor validate memory --records {other}"


def test_records_that_a_kill_tore_are_shown_without_their_last_line(tmp_path: Path) -> None:
    path = tmp_path / "time.jsonl"
    with RecordStore(path, header("time"), FORMAT) as store:
        for key in ("a", "b"):
            store.add(timed(key, 1.0))
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_bytes()
    assert [record.key for record in recorded_validation(path).records] == ["a"]
    assert path.read_bytes() == before
    path.write_text('{"something": "else"')
    with pytest.raises(AdvisorError) as refused:
        recorded_validation(path)
    assert "advisor validate" in (refused.value.fix or "")
