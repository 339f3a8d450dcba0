"""The order of a calibration on a machine whose operators and steps take no time, because the test makes them up."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.calibration import calibrate as calibrating
from advisor.calibration import calibrate_device, load_calibration
from advisor.calibration import ledger as ledgers
from advisor.calibration import recall as recalling
from advisor.calibration.journal import PointJournal
from advisor.calibration.ledger import CalibrationDatabase
from advisor.calibration.measure import LEAST_REPLAY_S, CalibrationRun, TracedItem, replay
from advisor.calibration.plan import REFERENCE_FLOPS_PER_S, BenchmarkPlan, encoder
from advisor.calibration.replay import ReplayTask
from advisor.calibration.report import coverage
from advisor.calibration.store import journal_path
from advisor.core.coefficients import Calibration, ReplayPoint
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import InterruptedByUser, OutputError, RunFailed
from advisor.core.model import ModelSpec
from advisor.measurement import StepMeasurement, StepRequest
from advisor.measurement.isolation import Result
from advisor.tracing.ops import TracedOp
from tests.calibration.calibrations import DEVICE, item


@dataclasses.dataclass
class Machine:
    """Pretends to trace, replay and run; counts how often, and may be interrupted or upset.

    Attributes:
        steps_s: Times that the next steps take.
        before: Called with a word for everything that is about to be done.
        limit_s: Of the agenda; none is left for a second look.
    """

    steps_s: tuple[float, ...] = (0.1, 0.11, 0.1, 0.1, 0.12)
    before: Callable[[str], None] = lambda _what: None
    limit_s: float = 0.0
    done: list[str] = dataclasses.field(default_factory=list)
    timeouts_s: list[float | None] = dataclasses.field(default_factory=list)

    def trace(self, wanted: Any, state: CalibrationRun) -> TracedItem:
        self._do(f"trace {wanted.strategy.method}")
        rows = wanted.execution.micro_batch_size
        operators = [
            TracedOp("mm.default", "forward", rows * 10**6 * n, 4000, 4000, "float32", f"mm {rows} {n}")
            for n in (1, 2, 3, 4)
        ]
        return TracedItem(operators)

    def replay(self, tasks: list[ReplayTask], agenda: BenchmarkPlan, state: CalibrationRun) -> None:
        for task in tasks:
            self._do(f"replay {task.signature}")
            point = ReplayPoint(task.name, task.key, task.flops, task.moved_bytes, task.flops / 1e10, 0.01, task.share)
            if note := state.ledger.keep_replay(task, point):
                state.notes.append(note)

    def measure(self, request: StepRequest, *, timeout_s: float | None = None) -> StepMeasurement:
        self._do(f"steps {request.strategy.method}")
        self.timeouts_s.append(timeout_s)
        return StepMeasurement(self.steps_s, None, None, 10**9, 10**8, 1, 1)

    def _do(self, what: str) -> None:
        self.before(what)
        self.done.append(what)

    def take(self) -> list[str]:
        """What was done since the last call of this."""
        done, self.done = self.done, []
        return done


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    def agenda(model: ModelSpec, device: DeviceProfile, **_: object) -> BenchmarkPlan:
        items = (item("lora"), item("full", rows=16))
        return BenchmarkPlan(items, 10.0, 0.1, limit_s=pretended.limit_s)

    pretended = Machine()
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    monkeypatch.setattr(calibrating, "make_agenda", agenda)
    monkeypatch.setattr(calibrating, "trace_item", pretended.trace)
    monkeypatch.setattr(calibrating, "replay", pretended.replay)
    monkeypatch.setattr("advisor.measurement.measure_steps", pretended.measure)
    monkeypatch.setattr("advisor.measurement.server.context", lambda: None)
    return pretended


def calibrate(**options: Any) -> Calibration:
    return calibrate_device(encoder(), device=DEVICE, **options)


def test_a_second_call_measures_nothing(machine: Machine) -> None:
    first = calibrate()
    assert machine.take().count("steps lora") == 1
    told: list[str] = []
    second = calibrate(on_progress=lambda text, _share: told.append(text))
    assert machine.take() == []
    assert told[0] == "known already: 8 operator calls and steps of 2 configurations"
    assert (second.replays, second.points, second.provenance) == (first.replays, first.points, first.provenance)


def test_beginning_anew_measures_everything_again(machine: Machine) -> None:
    calibrate()
    wanted = machine.take()
    renewed = calibrate(fresh=True)
    assert machine.take() == wanted
    assert len(renewed.provenance) == 1


def test_only_what_is_noisy_is_measured_again(machine: Machine) -> None:
    machine.steps_s = (0.1, 0.3, 0.1, 0.3, 0.2)
    assert any("calibrate again" in note for note in calibrate().notes)
    machine.take()
    machine.steps_s = (0.1,) * 5
    again = calibrate()
    assert machine.take() == ["trace lora", "steps lora", "trace full", "steps full"]
    assert [p.noise_relative for p in again.points] == [0, 0]
    assert not any("calibrate again" in note for note in again.notes)


def test_while_there_is_time_steps_are_measured_once_more_and_noisy_ones_first(machine: Machine) -> None:
    machine.limit_s = 600.0
    quiet, noisy = machine.steps_s, (0.1, 0.3, 0.1, 0.3, 0.2)
    machine.before = lambda what: setattr(
        machine, "steps_s", noisy if what == "steps full" and what not in machine.done else quiet
    )
    found = calibrate()
    assert [what for what in machine.take() if what.startswith("steps")] == [
        "steps lora", "steps full", "steps full", "steps lora",
    ]  # fmt: skip
    assert len(found.points) == 4, "both looks count"
    assert found.held_out is not None
    assert [p.origin for p in found.points] == [0] * 4
    assert coverage(found)[0].configurations == 2
    machine.before = lambda _what: None
    calibrate()
    assert machine.take() == [], "one quiet look is enough to know a configuration"


def test_another_model_adds_to_the_first(machine: Machine) -> None:
    calibrate()
    machine.take()
    other = dataclasses.replace(encoder(), hidden_size=768)
    both = calibrate_device(other, device=DEVICE)
    assert not [what for what in machine.take() if what.startswith("replay")], "the same calls, and timed already"
    assert [entry.points for entry in both.provenance] == [2, 2]
    assert len(both.model_ratios) == 2


@pytest.mark.parametrize("at", ["trace lora", "replay mm 16 3", "steps lora", "steps full"])
def test_ctrl_c_anywhere_keeps_what_was_measured(machine: Machine, at: str) -> None:
    def interrupt(what: str) -> None:
        if what == at:
            raise KeyboardInterrupt

    machine.before = interrupt
    with pytest.raises(InterruptedByUser) as stopped:
        calibrate()
    before = machine.take()
    measured = [what for what in before if not what.startswith("trace")]
    assert ("marked partial" if measured else "nothing was measured") in (stopped.value.fix or "")
    kept = load_calibration(DEVICE.id)
    assert (kept.partial if kept is not None else "") == ("interrupted" if measured else "")

    machine.before = lambda _what: None
    complete = calibrate()
    after = machine.take()
    assert complete.partial == ""
    assert not {what for what in before if not what.startswith("trace")} & set(after), "nothing is measured twice"
    assert len(complete.replays) == 8
    assert {p.method for p in complete.points} == {"lora", "full"}


def test_ctrl_c_while_fitting_keeps_what_was_measured(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, calls = calibrating._finish, []

    def interrupted_once(state: CalibrationRun, partial: str) -> Calibration:
        calls.append(partial)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return finish(state, partial)

    monkeypatch.setattr(calibrating, "_finish", interrupted_once)
    with pytest.raises(InterruptedByUser, match="interrupted") as stopped:
        calibrate()
    assert "marked partial" in (stopped.value.fix or "")
    assert calls == ["", "interrupted"]
    kept = load_calibration(DEVICE.id)
    assert kept is not None
    assert len(kept.points) == 2


def test_ctrl_c_before_anything_new_says_that_what_was_known_is_kept(machine: Machine) -> None:
    def interrupting(at: str) -> Callable[[str], None]:
        def interrupt(what: str) -> None:
            if what == at:
                raise KeyboardInterrupt

        return interrupt

    for at, told in (("steps full", "marked partial"), ("trace full", "measured before is kept")):
        machine.before = interrupting(at)
        with pytest.raises(InterruptedByUser) as stopped:
            calibrate()
        assert told in (stopped.value.fix or "")
    kept = load_calibration(DEVICE.id)
    assert kept is not None
    assert [p.method for p in kept.points] == ["lora"]


def test_replays_end_when_the_calibration_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[float] = []

    def isolated(*_: object, budget_s: float, **__: object) -> Result[None]:
        granted.append(budget_s)
        return Result("completed", None)

    monkeypatch.setattr("advisor.measurement.isolated", isolated)
    task = ReplayTask("a call", "mm.default", "gemm/float32/mm", 10, 10, 1)
    with CalibrationDatabase(DEVICE, keep=False) as ledger:
        for begun_s, wanted_s in ((0.0, 10.0), (45.0, 5.0), (1000.0, LEAST_REPLAY_S)):
            state = CalibrationRun(DEVICE, (encoder(),), lambda _text, _share: None, ledger)
            state.started_s -= begun_s
            replay([task], BenchmarkPlan((), 10.0, 0.1, limit_s=40.0, end_s=50.0), state)
            assert granted.pop() == pytest.approx(wanted_s, abs=1.0)


def test_renewing_that_is_interrupted_keeps_the_complete_one(machine: Machine) -> None:
    complete = calibrate()
    machine.take()

    def interrupt(what: str) -> None:
        if what == "steps full":
            raise KeyboardInterrupt

    machine.before = interrupt
    with pytest.raises(InterruptedByUser) as stopped:
        calibrate(fresh=True)
    assert "is kept" in (stopped.value.fix or "")
    assert load_calibration(DEVICE.id) == complete
    machine.before = lambda _what: None
    machine.take()
    renewed = calibrate()
    done = machine.take()
    assert "steps full" in done
    assert "steps lora" not in done, "the renewing goes on where it ended"
    assert renewed.partial == ""
    assert load_calibration(DEVICE.id) == renewed


def test_nothing_measured_is_a_failure_and_stores_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_item: object, state: CalibrationRun) -> TracedItem:
        state.notes.append("no such operator")
        return TracedItem([])

    monkeypatch.setattr(calibrating, "trace_item", fail)
    with pytest.raises(RunFailed) as failure:
        calibrate()
    assert failure.value.problems == ("no such operator",)
    assert load_calibration(DEVICE.id) is None


def test_times_of_a_clock_that_jumps_are_dropped_with_a_note(machine: Machine) -> None:
    machine.steps_s = (0.1, -3.0, 0.1, 0.0, 0.1, 0.11, 90.0, 0.1)
    found = calibrate()
    assert found.points[0].step_times_s == (0.1, 0.1, 0.1, 0.11, 0.1)
    assert any("lora, 8 x 64 tokens: 3 of 8 step times were dropped" in note for note in found.notes)
    machine.take()
    machine.steps_s = (0.0, -1.0, 0.0, 0.0, 0.0)
    found = calibrate(fresh=True)
    assert found.points == (), "no time is left"
    assert found.step is None


def test_a_slow_machine_gets_more_time(machine: Machine) -> None:
    calibrate()
    slow = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(REFERENCE_FLOPS_PER_S / 4, "probed")})
    calibrate_device(encoder(), device=slow, fresh=True)
    assert machine.timeouts_s[2:] == [4 * machine.timeouts_s[0], 4 * machine.timeouts_s[1]]  # type: ignore[operator]


def test_a_disk_that_is_full_at_the_end_loses_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_calibration: Calibration) -> Path:
        raise OutputError("the calibration must be written, but the disk is full", fix="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "save_calibration", full)
        with pytest.raises(OutputError) as failure:
            calibrate()
    assert str(journal_path(DEVICE.id)) in (failure.value.fix or "")
    machine.take()
    assert len(calibrate().points) == 2
    assert machine.take() == []


def test_a_disk_that_cannot_take_points_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recalling, "PointJournal", lambda path: PointJournal(path, write=full))
    found = calibrate()
    assert len(found.points) == 2
    assert any("No space left" in note for note in found.notes)
