"""The order of a calibration on a machine whose operators and steps take no time, because the test makes them up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.calibration.calibrate import calibrate_device
from advisor.calibration.database import load_calibration
from advisor.calibration.measure import LEAST_REPLAY_S, CalibrationRun, Measurer, TracedCase, replay
from advisor.calibration.merging import import_files
from advisor.calibration.plan import REFERENCE_FLOPS_PER_S, BatchShape, BenchmarkCase, BenchmarkPlan, encoder
from advisor.calibration.replay import ReplayTask
from advisor.calibration.report import coverage
from advisor.core.coefficients import Calibration, ReplayPoint
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import InterruptedByUser, RunFailed, UntraceableError
from advisor.core.model import ModelSpec
from advisor.measurement.isolation import Result
from advisor.measurement.steps import StepMeasurement, StepRequest
from advisor.tracing.ops import TracedOp
from tests.calibration.calibrations import DEVICE, item

Calibrate = Callable[..., Calibration]


@dataclasses.dataclass
class Machine(Measurer):
    """A measurer that makes its figures up; counts how often, and may be interrupted or upset.

    Attributes:
        steps_s: Times that the next steps take; every measurement is a millionth slower than the one before.
        before: Called with a word for everything that is about to be done.
        limit_s: Of the plan; none is left for a second look.
        crashes: Names of operators that end the replaying process.
        budgets_s: Of every call of ``replay``.
        busy: What other programs do, in words.
    """

    steps_s: tuple[float, ...] = (0.1, 0.11, 0.1, 0.1, 0.12)
    before: Callable[[str], None] = lambda _what: None
    limit_s: float = 0.0
    crashes: tuple[str, ...] = ()
    done: list[str] = dataclasses.field(default_factory=list)
    timeouts_s: list[float] = dataclasses.field(default_factory=list)
    budgets_s: list[float] = dataclasses.field(default_factory=list)
    busy: str = ""

    def other_work(self) -> str:
        return self.busy

    def plan(
        self, model: ModelSpec, device: DeviceProfile, *, quick: bool, measured: Sequence[BatchShape]
    ) -> BenchmarkPlan:
        return BenchmarkPlan((item("lora"), item("full", rows=16)), 10.0, 0.1, limit_s=self.limit_s)

    def trace(self, model: ModelSpec, device: DeviceProfile, case: BenchmarkCase) -> TracedCase:
        self._do(f"trace {case.strategy.method}")
        rows = case.execution.micro_batch_size
        return TracedCase(
            [
                TracedOp("mm.default", "forward", rows * 10**6 * n, 4000, 4000, "float32", f"mm {rows} {n}")
                for n in (1, 2, 3, 4)
            ]
        )

    def replay(self, tasks: list[ReplayTask], device: DeviceProfile, **options: Any) -> Result[int]:
        on_event, budget_s = options["on_event"], options["budget_s"]
        self.budgets_s.append(budget_s)
        for index, task in enumerate(tasks):
            on_event({"kind": "begin", "index": index})
            self._do(f"replay {task.signature}")
            if task.signature in self.crashes:
                return Result("crashed", reason="segmentation fault")
            point = ReplayPoint(task.name, task.key, task.flops, task.moved_bytes, task.flops / 1e10, 0.01, task.share)
            on_event({"kind": "point", "index": index, "point": point})
        return Result("completed", len(tasks))

    def run_steps(self, request: StepRequest, *, timeout_s: float) -> StepMeasurement:
        self._do(f"steps {request.strategy.method}")
        self.timeouts_s.append(timeout_s)
        slower = 1 + len(self.timeouts_s) / 1e6
        times_s = tuple(t * slower for t in self.steps_s)
        return StepMeasurement(times_s, None, None, 10**9, 10**8, 1, 1, load=self.busy)

    def _do(self, what: str) -> None:
        self.before(what)
        self.done.append(what)

    def take(self) -> list[str]:
        """What was done since the last call of this."""
        done, self.done = self.done, []
        return done


def interrupt_at(*moments: str) -> Callable[..., None]:
    """Ctrl-C at each of these moments once."""
    left = list(moments)

    def interrupt(what: str, _share: float = 0.0) -> None:
        if what in left:
            left.remove(what)
            raise KeyboardInterrupt

    return interrupt


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    return Machine()


@pytest.fixture
def calibrate(machine: Machine) -> Calibrate:
    def call(model: ModelSpec | None = None, **options: Any) -> Calibration:
        return calibrate_device(model or encoder(), measurer=machine, **{"device": DEVICE, **options})

    return call


def test_a_second_call_measures_nothing(machine: Machine, calibrate: Calibrate) -> None:
    first = calibrate()
    assert machine.take().count("steps lora") == 1
    told: list[str] = []
    second = calibrate(on_progress=lambda text, _share: told.append(text))
    assert machine.take() == []
    assert told[0] == "measured before: 8 operator calls and steps of 2 configurations"
    assert (second.replays, second.points, second.provenance) == (first.replays, first.points, first.provenance)


def test_beginning_anew_measures_everything_again(machine: Machine, calibrate: Calibrate) -> None:
    calibrate()
    wanted = machine.take()
    renewed = calibrate(fresh=True)
    assert machine.take() == wanted
    assert len(renewed.provenance) == 1


def test_only_what_is_noisy_is_measured_again(machine: Machine, calibrate: Calibrate) -> None:
    machine.steps_s = (0.1, 0.3, 0.1, 0.3, 0.2)
    assert any("calibrate again" in note for note in calibrate().notes)
    machine.take()
    machine.steps_s = (0.1,) * 5
    again = calibrate()
    assert machine.take() == ["trace lora", "steps lora", "trace full", "steps full"]
    assert [p.noise_relative for p in again.points] == [0, 0]
    assert not any("calibrate again" in note for note in again.notes)


def test_steps_taken_under_load_are_marked_and_measured_again_when_it_is_quiet(
    machine: Machine, calibrate: Calibrate
) -> None:
    machine.busy = "other programs left 0.5 of 2 cores"
    marked = calibrate()
    assert any("2 of 2 configurations were measured while other programs" in note for note in marked.notes)
    machine.take()
    calibrate()  # it is still busy: there is nothing better to be had
    assert not [what for what in machine.take() if what.startswith("steps")]
    machine.busy = ""
    quiet = calibrate()
    assert [what for what in machine.take() if what.startswith("steps")] == ["steps lora", "steps full"]
    assert not quiet.notes and not any(point.load for point in quiet.points)


def test_while_there_is_time_steps_are_measured_once_more_and_noisy_ones_first(
    machine: Machine, calibrate: Calibrate
) -> None:
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


def test_another_model_adds_to_the_first(machine: Machine, calibrate: Calibrate) -> None:
    calibrate()
    machine.take()
    other = dataclasses.replace(encoder(), hidden_size=768)
    both = calibrate(other)
    assert not [what for what in machine.take() if what.startswith("replay")], "the same calls, and timed already"
    assert [entry.points for entry in both.provenance] == [2, 2]
    assert len(both.model_ratios) == 2


@pytest.mark.parametrize("at", ["trace lora", "replay mm 16 3", "steps lora", "steps full"])
def test_ctrl_c_anywhere_keeps_what_was_measured(machine: Machine, calibrate: Calibrate, at: str) -> None:
    machine.before = interrupt_at(at)
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


def test_ctrl_c_while_fitting_keeps_what_was_measured(machine: Machine, calibrate: Calibrate) -> None:
    with pytest.raises(InterruptedByUser, match="interrupted") as stopped:
        calibrate(on_progress=interrupt_at("fitting"))
    assert "marked partial" in (stopped.value.fix or "")
    kept = load_calibration(DEVICE.id)
    assert kept is not None
    assert (kept.partial, len(kept.points)) == ("interrupted", 2)


def test_ctrl_c_before_anything_new_says_that_what_was_known_is_kept(machine: Machine, calibrate: Calibrate) -> None:
    for at, told in (("steps full", "marked partial"), ("trace full", "measured before is kept")):
        machine.before = interrupt_at(at)
        with pytest.raises(InterruptedByUser) as stopped:
            calibrate()
        assert told in (stopped.value.fix or "")
    kept = load_calibration(DEVICE.id)
    assert kept is not None
    assert [p.method for p in kept.points] == ["lora"]


def test_replays_end_when_the_calibration_has_to(machine: Machine) -> None:
    task = ReplayTask("a call", "mm.default", "gemm/float32/mm", 10, 10, 1)
    with CalibrationRun(DEVICE, [encoder()], measurer=machine) as run:
        for begun_s, wanted_s in ((0.0, 10.0), (45.0, 5.0), (1000.0, LEAST_REPLAY_S)):
            run.started_s -= begun_s
            replay([task], BenchmarkPlan((), 10.0, 0.1, limit_s=40.0, end_s=50.0), run)
            assert machine.budgets_s.pop() == pytest.approx(wanted_s, abs=1.0)


def test_a_call_that_ends_its_process_is_left_out_and_the_others_follow(machine: Machine, calibrate: Calibrate) -> None:
    machine.crashes = ("mm 16 3",)
    found = calibrate()
    assert len(found.replays) == 7
    assert any("ended its process: segmentation fault" in note for note in found.notes)
    machine.take()
    calibrate()
    assert machine.take() == [], "it is not tried again"


def test_renewing_that_is_interrupted_keeps_the_complete_one(machine: Machine, calibrate: Calibrate) -> None:
    complete = calibrate()
    machine.take()

    machine.before = interrupt_at("steps full")
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


def test_nothing_measured_is_a_failure_and_stores_nothing(machine: Machine, calibrate: Calibrate) -> None:
    def fail(what: str) -> None:
        raise UntraceableError("no such operator")

    machine.before = fail
    with pytest.raises(RunFailed) as failure:
        calibrate()
    assert failure.value.problems == ("lora was left out: no such operator", "full was left out: no such operator")
    assert load_calibration(DEVICE.id) is None


def test_times_of_a_clock_that_jumps_are_dropped_with_a_note(machine: Machine, calibrate: Calibrate) -> None:
    machine.steps_s = (0.1, -3.0, 0.1, 0.0, 0.1, 0.11, 90.0, 0.1)
    found = calibrate()
    assert found.points[0].step_times_s == pytest.approx((0.1, 0.1, 0.1, 0.11, 0.1), rel=1e-4)
    assert any("lora, 8 x 64 tokens: 3 of 8 step times were dropped" in note for note in found.notes)
    machine.take()
    machine.steps_s = (0.0, -1.0, 0.0, 0.0, 0.0)
    found = calibrate(fresh=True)
    assert found.points == (), "no time is left"
    assert found.step is None


def test_a_slow_machine_gets_more_time(machine: Machine, calibrate: Calibrate) -> None:
    calibrate()
    slow = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(REFERENCE_FLOPS_PER_S / 4, "probed")})
    calibrate(device=slow, fresh=True)
    assert machine.timeouts_s[2:] == [4 * machine.timeouts_s[0], 4 * machine.timeouts_s[1]]  # type: ignore[operator]


def test_what_a_renewal_replaces_can_be_imported_again(machine: Machine, calibrate: Calibrate, tmp_path: Path) -> None:
    before = calibrate()
    assert calibrate(fresh=True).points != before.points
    [again], _ = import_files([tmp_path / "calibration" / "replaced" / f"{DEVICE.id}.json"], fresh=True)
    assert again.calibration.points == before.points
