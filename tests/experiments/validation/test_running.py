"""The loop over cases: what ends it, what does not, and how it knows how long the next case takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor.core.device import DeviceType
from advisor.core.errors import ModelError
from advisor.core.plan import ExecutionPlan
from advisor.core.run import Outcome
from advisor.core.strategy import StrategyConfig
from advisor.experiments.validation.journal import Journal
from advisor.experiments.validation.measurement_protocol import Procedure, procedure
from advisor.experiments.validation.models import grid_model
from advisor.experiments.validation.prediction import Prepared
from advisor.experiments.validation.record import Kind
from advisor.experiments.validation.running import FIRST_RATIO, START_S, CaseDurations, run_cases
from advisor.measurement.isolation import Result
from advisor.measurement.validation import CaseMeasurement, CaseRequest
from advisor.measurement.validation.figures import DeviceFigures
from tests.experiments.validation.records import MIB, header, predicted, record

VALUE = CaseMeasurement(DeviceFigures(allocated_bytes=MIB, device_bytes=2 * MIB), (0.1, 0.1), 10)


def prepared(key: str, *, step_s: float = 0.0, runnable: bool = True) -> Prepared:
    return Prepared(
        record(key, promised=predicted(MIB, step_s=step_s), outcome="failed" if runnable else "skipped"),
        runnable,
        grid_model("bert-small"),
        StrategyConfig("full", 1e-4),
        ExecutionPlan(2, max_seq_length=16),
    )


def answering(*outcomes: Outcome, wall_s: float = 1.0) -> Callable[[CaseRequest, float], Result[CaseMeasurement]]:
    """Stands for the device: ends case after case as told."""
    left = list(outcomes)

    def measure(request: CaseRequest, limit_s: float) -> Result[CaseMeasurement]:
        outcome = left.pop(0)
        done = outcome == "completed"
        return Result(outcome, VALUE if done else None, "" if done else "so it ended", wall_s=wall_s)

    return measure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def test_no_outcome_of_a_case_ends_the_grid(path: Path) -> None:
    outcomes: tuple[Outcome, ...] = ("completed", "out_of_memory", "over_time", "failed", "completed")
    told: list[str] = []
    with Journal(path, header()) as journal:
        cases = [prepared(str(index)) for index in range(5)]
        stopped = run_cases(
            cases, journal, "cpu", measure=answering(*outcomes), on_case=lambda record: told.append(record.outcome)
        )
    assert (stopped, told) == ("", list(outcomes))
    with Journal(path, header()) as journal:
        assert [journal.records[str(index)].outcome for index in range(5)] == list(outcomes)
        assert journal.records["0"].measured is not None
        assert journal.records["0"].measured.device_bytes == 2 * MIB
        assert journal.records["1"].reason == "so it ended"


def test_ctrl_c_keeps_what_was_measured_and_leaves_the_case_for_later(path: Path) -> None:
    with Journal(path, header()) as journal:
        cases = [prepared("a"), prepared("b"), prepared("c")]
        assert run_cases(cases, journal, "cpu", measure=answering("completed", "interrupted")) == "interrupted"
        assert list(journal.records) == ["a"]


def test_a_case_that_would_end_too_late_is_not_begun(path: Path) -> None:
    with Journal(path, header()) as journal:
        cases = [prepared("short"), prepared("long", step_s=1000.0), prepared("never")]
        stopped = run_cases(cases, journal, "cpu", measure=answering("completed"), deadline_s=time.monotonic() + 60)
        assert stopped == "time limit"
        assert list(journal.records) == ["short"]


def test_one_case_is_always_run_so_that_shards_get_on(path: Path) -> None:
    with Journal(path, header()) as journal:
        measure = answering("completed")
        assert run_cases([prepared("long", step_s=99.0)], journal, "cpu", measure=measure, deadline_s=0.0) == ""
        assert list(journal.records) == ["long"]


def test_what_does_not_run_is_recorded_with_its_reason(path: Path) -> None:
    with Journal(path, header()) as journal:
        run_cases([prepared("left out", runnable=False)], journal, "cpu", measure=answering())
        assert journal.records["left out"].outcome == "skipped"
        assert journal.records["left out"].reason


def test_a_case_that_the_libraries_refuse_is_refused_not_failed(path: Path) -> None:
    def measure(request: CaseRequest, limit_s: float) -> Result[CaseMeasurement]:
        return Result("failed", reason="no such kernel", error=ModelError("no such kernel"))

    with Journal(path, header()) as journal:
        run_cases([prepared("a")], journal, "cpu", measure=measure)
        assert journal.records["a"].outcome == "refused"


def test_a_stuck_case_gets_a_limit_above_what_it_should_take(path: Path) -> None:
    limits: list[float] = []

    def measure(request: CaseRequest, limit_s: float) -> Result[CaseMeasurement]:
        limits.append(limit_s)
        return Result("completed", VALUE, wall_s=START_S["cpu"])

    with Journal(path, header()) as journal:
        run_cases([prepared("a"), prepared("b", step_s=100.0)], journal, "cpu", measure=measure)
    assert limits[0] == 120.0
    assert limits[1] > 400.0


@pytest.mark.parametrize(
    ("kind", "device_type", "repeats", "step_s", "expected"),
    [
        ("memory", "cpu", 0, 9.0, Procedure(1, 2, True, "never")),
        ("memory", "cuda", 0, 9.0, Procedure(1, 2, False, "never")),
        ("time", "cpu", 5, 9.0, Procedure(2, 5, False, "around")),
        ("all", "cpu", 5, 9.0, Procedure(2, 5, True, "after")),
        ("all", "cpu", 0, 9.0, Procedure(1, 2, True, "never")),
        ("all", "cuda", 5, 0.5, Procedure(2, 5, False, "after")),
        ("time", "cuda", 5, 2.5, Procedure(2, 3, False, "after")),
        ("time", "cpu", 5, 0.05, Procedure(2, 15, False, "around")),
    ],
)
def test_steps_and_what_is_read_around_them_follow_the_kind(
    kind: Kind, device_type: DeviceType, repeats: int, step_s: float, expected: Procedure
) -> None:
    case = dataclasses.replace(prepared("a", step_s=step_s).record, repeats=repeats)
    assert procedure(case, kind, device_type) == expected


def test_timed_cases_are_timed_and_the_reference_is_kept(path: Path) -> None:
    asked: list[CaseRequest] = []

    def measure(request: CaseRequest, limit_s: float) -> Result[CaseMeasurement]:
        asked.append(request)
        return Result("completed", dataclasses.replace(VALUE, reference_s=(0.05, 0.06)), wall_s=1.0)

    case = prepared("a", step_s=0.5)
    timed = dataclasses.replace(case, record=dataclasses.replace(case.record, repeats=5))
    with Journal(path, header("time")) as journal:
        run_cases([timed], journal, "cpu", measure=measure)
        measured = journal.records["a"].measured
    assert measured is not None
    assert measured.reference_s == (0.05, 0.06)
    assert (asked[0].steps.steps, asked[0].steps.warmup_steps) == (5, 2)
    assert (asked[0].profile_memory, asked[0].reference) == (False, "around")


def test_the_pace_follows_the_slowest_of_the_last_cases() -> None:
    pace, next_case = CaseDurations("cuda"), record("next", promised=predicted(MIB, step_s=1.0))
    alone_s = START_S["cuda"] + 3 * 1.0
    assert pace.expected_s(next_case) == pytest.approx(FIRST_RATIO * alone_s)
    for seconds in (50 * alone_s, *[alone_s / 2] * 4, alone_s):
        pace.learn(record("done", promised=predicted(MIB, step_s=1.0), allocated_bytes=MIB, seconds=seconds))
    assert pace.expected_s(next_case) == pytest.approx(alone_s)


def test_earlier_records_set_the_pace() -> None:
    earlier = record("done", promised=predicted(MIB, step_s=0.0), allocated_bytes=MIB, seconds=3 * START_S["cpu"])
    assert CaseDurations("cpu", [earlier]).expected_s(earlier) == pytest.approx(3 * START_S["cpu"])
