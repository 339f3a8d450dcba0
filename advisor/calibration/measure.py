"""A running calibration: what was measured before, what is measured now, and the machine that it is measured on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor import __version__
from advisor.calibration.database import SUPERSEDED, CalibrationDatabase, database_path, device_lock
from advisor.calibration.plan import NOISY, STEPS, BatchShape, BenchmarkCase, BenchmarkPlan, make_plan, timeout_scale
from advisor.calibration.profiled_ops import calls_in_steps, work_of, work_seconds
from advisor.calibration.replay import ReplayTask, replay_all
from advisor.core.coefficients import Calibration, Contribution, ReplayPoint, StepPoint, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, DeviceError, InterruptedByUser, OutputError
from advisor.core.model import ModelSpec
from advisor.core.store import ensure_writable_dir
from advisor.core.units import counted, now_iso
from advisor.costmodel.time.operator_times import configuration_key, execution_key, model_key
from advisor.hardware.backends import backend_of
from advisor.hardware.versions import current_versions, machine_facts
from advisor.tracing.ops import TracedOp, class_key

if TYPE_CHECKING:
    from advisor.measurement.isolation import Result
    from advisor.measurement.steps import StepMeasurement, StepRequest
    from advisor.tracing.recorder import Recording

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

JUMP_FACTOR = 100.0
"""A repeat this many times longer or shorter than its siblings did not take that time: the clock jumped, or the machine
was suspended. Real repeats of one step differ by a factor of two on the busiest machines."""
LEAST_REPLAY_S = 5.0
"""For replays where measuring steps has used up the time."""
MAX_CRASHES = 3
"""Replays that may kill their process before the others are given up."""
STEP_PHASES = ("forward", "backward", "optimizer")
STEP_TIMEOUT_S = 180.0
NEEDED_BYTES = 16 * 2**20
"""Free space without which measuring does not begin; a quick calibration of MiniLM wrote 0.1 MB."""


@dataclass(frozen=True)
class TracedCase:
    """What the trace of a case contains.

    Attributes:
        operators: Of one step and, if the case asks for it, of an evaluation pass, with their replay signatures.
        weights_bytes, heap_bytes: As in ``StepPoint``.
    """

    operators: list[TracedOp]
    weights_bytes: int = 0
    heap_bytes: int = 0


class Measurer:
    """What a calibration needs of a machine; this class measures the one at hand."""

    def plan(
        self, model: ModelSpec, device: DeviceProfile, *, quick: bool, measured: Sequence[BatchShape]
    ) -> BenchmarkPlan:
        """The cases to measure (``make_plan``)."""
        return make_plan(model, device, quick=quick, measured=measured)

    def trace(self, model: ModelSpec, device: DeviceProfile, case: BenchmarkCase) -> TracedCase:
        """The operators of a case.

        Raises:
            AdvisorError: it cannot be traced.
        """
        from advisor.measurement.server import context
        from advisor.tracing.step import TraceRequest, trace_step

        context()  # the server of the measuring processes imports while this process traces
        request = TraceRequest(
            model,
            case.strategy,
            case.execution,
            case.seq_length,
            semantics=backend_of(device).traced_as,
            compute_capability=device.compute_capability,
            keep_signatures=True,
            evaluation=case.evaluated,
        )
        recording = trace_step(request).recording
        operators = [op.traced() for op in recording.operators if op.phase in (*STEP_PHASES, "evaluation")]
        if backend_of(device).memory.allocator != "heap":
            return TracedCase(operators)
        return TracedCase(operators, *_weights_and_heap_bytes(case, recording))

    def replay(self, tasks: list[ReplayTask], device: DeviceProfile, **options: Any) -> Result[int]:
        """Time calls in a process of their own; the options are those of ``replay_all``, and ``timeout_s``."""
        from advisor.measurement.isolation import isolated

        where = backend_of(device).torch_device
        return isolated(replay_all, tasks, device=where, num_threads=device.num_threads, **options)

    def run_steps(self, request: StepRequest, *, timeout_s: float) -> StepMeasurement:
        """Run real steps in a process of their own.

        Raises:
            AdvisorError: they cannot be run.
        """
        from advisor.measurement.steps import measure_steps

        return measure_steps(request, timeout_s=timeout_s)

    def other_work(self) -> str:
        """What keeps the processor busy right now, in words; empty when it is free."""
        from advisor.hardware.host import other_work

        return other_work()


def _weights_and_heap_bytes(case: BenchmarkCase, recording: Recording) -> tuple[int, int]:
    """Bytes of the weights, and what equal training steps make the heap grow beyond them."""
    from advisor.costmodel.memory.batch_sequence import run_shapes
    from advisor.costmodel.memory.replay import heap_bytes, schedule
    from advisor.tracing.symbolic_trace import recorded_events

    log = recorded_events(recording)
    plan, sizes = dataclasses.replace(schedule(log), evaluation=[]), log.sizes_bytes.tolist()
    shapes = run_shapes(case.execution, 1, None, same_length=True)
    grown = heap_bytes(plan, {shape: sizes for _, shape in shapes.steps()}, shapes)
    return sum(sizes[number] for number in plan.weights), grown


class CalibrationRun:
    """A running calibration. Use as a context manager; every point is stored as soon as it was measured.

    Args:
        device: The machine at hand.
        models: To calibrate with, one after the other.
        measurer: Traces, replays and runs.
        report: Told what is being done.
        fresh: What is stored does not count; it stays until something complete replaces it.

    Attributes:
        versions: In use now; points of others do not count.
        stored: What was measured before, by an interrupted calibration too.
        renews: The user began anew, now or in the interrupted calibration that goes on.
        new_replays, new_points: Measured now.
        number: Index of the model at work.
        patience: How much longer than usual a process may take on this machine.
        notes: What the user should know.
        busy: What kept the processor busy at the beginning, in words; empty when it was free.

    Raises:
        DeviceError: what is stored is damaged, or a newer advisor wrote it.
        OutputError: the folder cannot be written, or another calibration is under way.
    """

    def __init__(
        self,
        device: DeviceProfile,
        models: Sequence[ModelSpec] = (),
        *,
        measurer: Measurer | None = None,
        report: Progress = lambda _text, _share: None,
        fresh: bool = False,
        needed_bytes: int = NEEDED_BYTES,
    ) -> None:
        self.device, self.models, self.report, self.renews = device, tuple(models), report, fresh
        self.measurer = measurer or Measurer()
        self.versions = current_versions(device)
        self.new_replays: list[ReplayPoint] = []
        self.new_points: list[StepPoint] = []
        self.notes: list[str] = []
        self.number = 0
        self.patience = timeout_scale(device)
        self.started_s = time.perf_counter()
        self._needed_bytes = needed_bytes
        self._tried: set[str] = set()

    def __enter__(self) -> CalibrationRun:
        ensure_writable_dir(database_path().parent, needed_bytes=self._needed_bytes)
        with contextlib.ExitStack() as stack:
            stack.enter_context(device_lock(self.device.id))
            self.database = stack.enter_context(CalibrationDatabase(writing=True))
            with self.database.transaction():
                began = Contribution(now_iso(), __version__, machine_facts(self.device))
                self._calibration, self._contribution, self.renews = self.database.begin(
                    self.device.id, self.versions, began, fresh=self.renews
                )
            self.stored = self.database.read(self._calibration)
            if not self.renews:
                self._note_what_does_not_count()
            self._resources = stack.pop_all()
        self.busy = self.measurer.other_work()
        self._covered = set(self.stored.covered)
        self._in_steps = {(p.key, p.flops, p.moved_bytes) for p in calls_in_steps(self.stored.points)}
        self._calls = {p.call for p in self.stored.replays if p.call and p.spread <= NOISY}
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def model(self) -> ModelSpec:
        """The one at work."""
        return self.models[self.number]

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.started_s

    def share(self, done: float, of: int) -> float:
        """Of all the work when ``done`` of the present model's ``of`` parts are."""
        return (self.number + done / max(of, 1)) / len(self.models)

    def measured_before(self) -> str:
        """``"measured before: 512 operator calls and steps of 14 configurations"``; empty when nothing was."""
        calls, configurations = len(self.stored.replays), len({p.same_steps for p in self.stored.points})
        if not calls and not configurations:
            return ""
        steps = f"steps of {counted(configurations, 'configuration')}"
        return f"measured before: {counted(calls, 'operator call')} and {steps}"

    def has_call(self, task: ReplayTask) -> bool:
        """Whether this very call was timed before with little noise, or calls of the same work inside a step."""
        work = (task.key, task.flops, task.moved_bytes)
        return work in self._in_steps or call_digest(task.signature) in self._calls

    def has_steps(self, model: str, case: BenchmarkCase) -> bool:
        """Whether at least ``STEPS`` steps of this case were measured before, with little noise, and as quietly as the
        machine is now.
        """
        rows, key = case.execution.micro_batch_size, execution_key(case.execution)
        same = (model, case.strategy.method, key, rows, case.seq_length)
        return any(
            p.same_steps == same
            and len(p.step_times_s) >= STEPS
            and p.noise_relative <= NOISY
            and (self.busy or not p.load)
            for p in self.stored.points
        )

    def has_operators(self, model: str, case: BenchmarkCase) -> bool:
        """Whether all operators of this case were replayed before, so that it need not be traced."""
        key = case_key(model, case)
        return bool({key, f"{key} +evaluation"} & self._covered)

    def keep_replay(self, task: ReplayTask, point: ReplayPoint) -> None:
        """Store a timed call; an impossible time is noted instead."""
        self._tried.add(task.signature)
        if point.is_plausible:
            self.new_replays.append(dataclasses.replace(point, call=call_digest(task.signature)))
            self._store(self.new_replays[-1])
        else:
            time_s = f"a time of {point.median_s} s cannot be, so the clock jumped"
            self.notes.append(f"{point.name} was left out: {time_s}")

    def skip_call(self, task: ReplayTask) -> None:
        """Remember that this call cannot be timed."""
        self._tried.add(task.signature)

    def keep_steps(self, point: StepPoint) -> None:
        """Store measured steps."""
        self._in_steps |= {(p.key, p.flops, p.moved_bytes) for p in calls_in_steps([point])}
        self.new_points.append(point)
        self._store(point)

    def cover(self, model: str, case: BenchmarkCase, tasks: Iterable[ReplayTask]) -> None:
        """Remember a case whose calls have all been timed, or cannot be."""
        key = case_key(model, case)
        if key not in self._covered and all(t.signature in self._tried or self.has_call(t) for t in tasks):
            self._covered.add(key)
            self._store(key)

    def points_to_fit(self) -> Calibration:
        """Stored and new points together; a new measurement replaces stored ones of the same thing."""
        return self.database.read(self._calibration, f"NOT {SUPERSEDED}")

    def replaced(self) -> Calibration | None:
        """The stored calibration that this one replaces, when it was begun anew."""
        found = self.database.load(self.device.id, self.versions) if self.renews else None
        return found if found is not None and found.versions == self.versions else None

    def store(self, calibration: Calibration) -> None:
        """Store the fits to ``points_to_fit``.

        Raises:
            OutputError: they cannot be written; the message says where the points are.
        """
        try:
            with self.database.transaction():
                self.database.conclude(self._calibration, calibration)
        except OutputError as failure:
            kept = f"what was measured is kept in {self.database.path}, and `advisor calibrate run` goes on from it"
            raise OutputError(failure.message, fix=f"{failure.fix}; {kept}") from failure

    def _store(self, point: ReplayPoint | StepPoint | str) -> None:
        with self.database.transaction():
            self.database.add(self._calibration, self._contribution, [point])

    def _note_what_does_not_count(self) -> None:
        """Say why a stored calibration is not added to."""
        why = ""
        try:
            found = self.database.load(self.device.id, self.versions)
        except DeviceError as failure:
            why = f"cannot be used ({failure.message})"
        else:
            if found is not None and (different := version_differences(found.versions, self.versions)):
                why = f"was made with other versions ({'; '.join(different)})"
        if why:
            self.notes.append(f"the stored calibration {why}: calibrating begins anew, and the old one is kept")


def case_key(model: str, case: BenchmarkCase) -> str:
    """One case of a plan, as ``Calibration.covered`` lists it."""
    shape = f"{case.execution.micro_batch_size}x{case.seq_length}"
    evaluation = " +evaluation" if case.evaluated else ""
    return f"{model} {case.strategy.method} {execution_key(case.execution)} {shape}{evaluation}"


def call_digest(signature: str) -> str:
    """Sixteen hexadecimal digits that identify a call."""
    return hashlib.sha256(signature.encode()).hexdigest()[:16]


def shape_of(case: BenchmarkCase) -> str:
    """``"8 x 64 tokens"``"""
    return f"{case.execution.micro_batch_size} x {case.seq_length} tokens"


# --------------------
# One case of a plan: its traced operators, their replays, and its real steps.


def trace_case(case: BenchmarkCase, run: CalibrationRun) -> TracedCase:
    """Trace one step; a failure is noted, and leaves no operators."""
    try:
        return run.measurer.trace(run.model, run.device, case)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        run.notes.append(f"{case.strategy.method} was left out: {failure.message}")
        return TracedCase([])


def distinct_tasks(operators: list[TracedOp]) -> list[ReplayTask]:
    """One task per distinct call, in the order in which to replay them."""
    counts: dict[str, int] = {}
    examples: dict[str, TracedOp] = {}
    for op in operators:
        counts[op.signature] = counts.get(op.signature, 0) + 1
        examples.setdefault(op.signature, op)
    tasks = [
        ReplayTask(signature, op.name, class_key(op), op.flops, op.moved_bytes, counts[signature])
        for signature, op in examples.items()
        if signature
    ]
    return _interleaved(tasks)


def _interleaved(tasks: list[ReplayTask]) -> list[ReplayTask]:
    """Operators take turns, so that a budget that ends early starves none: each one's middle call, its largest, its
    smallest.
    """
    by_key: dict[str, list[ReplayTask]] = {}
    for task in sorted(tasks, key=lambda t: -(t.flops + 8 * t.moved_bytes)):
        by_key.setdefault(task.key, []).append(task)
    turns: list[tuple[int, str, ReplayTask]] = []
    for key, members in by_key.items():
        first = list(dict.fromkeys((len(members) // 2, 0, len(members) - 1)))
        order = [*first, *(index for index in range(len(members)) if index not in first)]
        turns += [(turn, key, members[index]) for turn, index in enumerate(order)]
    return [task for _, _, task in sorted(turns, key=lambda entry: entry[:2])]


def replay(tasks: list[ReplayTask], plan: BenchmarkPlan, run: CalibrationRun) -> None:
    """Replay in isolated processes; one that a call kills is started again behind that call."""
    left_s = max(plan.end_s * run.patience - run.seconds, LEAST_REPLAY_S)
    first, crashes, deadline = 0, 0, time.perf_counter() + min(plan.replay_s, left_s)
    while first < len(tasks) and crashes < MAX_CRASHES:
        events = _ReplayEvents(run, tasks, first)
        result = run.measurer.replay(
            tasks[first:],
            run.device,
            budget_s=max(deadline - time.perf_counter(), 0.0),
            per_call_s=plan.call_s,
            timeout_s=(plan.replay_s * 3 + 60) * run.patience,
            on_event=events,
        )
        if result.outcome == "interrupted":
            raise InterruptedByUser("replaying was interrupted")
        if result.outcome == "completed":
            return
        crashes += 1
        last = tasks[first + events.last]
        run.notes.append(f"replaying {last.name} ended its process: {result.reason}")
        run.skip_call(last)
        first += events.last + 1


class _ReplayEvents:
    """Takes in the events of a replaying process.

    Attributes:
        last: Index of the call that was begun last.
    """

    def __init__(self, run: CalibrationRun, tasks: list[ReplayTask], first: int) -> None:
        self.last = 0
        self._run, self._tasks, self._first = run, tasks, first

    def __call__(self, event: dict[str, Any]) -> None:
        kind, number = event["kind"], self._first + event["index"]
        if kind == "begin":
            self.last = event["index"]
        elif kind == "point":
            self._run.keep_replay(self._tasks[number], event["point"])
            done = (number + 1) / len(self._tasks)
            self._run.report(f"timing operators: {event['point'].name}", self._run.share(0.9 + 0.1 * done, 1))
        elif kind == "skipped":
            self._run.skip_call(self._tasks[number])
            self._run.notes.append(f"not replayed: {event['reason']}")


def measure_case(case: BenchmarkCase, traced: TracedCase, plan: BenchmarkPlan, run: CalibrationRun) -> None:
    """Run real steps of a case and store what they took; what cannot be measured is noted."""
    from advisor.measurement.steps import StepRequest

    request = StepRequest(
        run.model,
        case.strategy,
        case.execution,
        case.seq_length,
        steps=case.steps,
        warmup_steps=plan.warmup_steps,
        profile_operators=backend_of(run.device).is_host,
        evaluate=case.evaluated,
        device_type=run.device.type,
    )
    try:
        found = run.measurer.run_steps(request, timeout_s=STEP_TIMEOUT_S * run.patience)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        run.notes.append(f"steps of {case.strategy.method}, {shape_of(case)} were not measured: {failure.message}")
        return
    times_s, note = plausible_times(found.step_times_s)
    if note:
        run.notes.append(f"{case.strategy.method}, {shape_of(case)}: {note}")
    if times_s:
        run.keep_steps(_step_point(case, traced, found, times_s, run.model))


def _step_point(
    case: BenchmarkCase, traced: TracedCase, found: StepMeasurement, times_s: tuple[float, ...], model: ModelSpec
) -> StepPoint:
    step = [op for op in traced.operators if op.phase in STEP_PHASES]
    passes = [op for op in traced.operators if op.phase == "evaluation"]
    evaluation = found.evaluation
    passes_s = plausible_times(evaluation.times_s)[0] if evaluation and passes else ()
    return StepPoint(
        model_key=model_key(model),
        method=case.strategy.method,
        execution_key=execution_key(case.execution),
        configuration=configuration_key(model, case.strategy, case.execution, case.seq_length),
        micro_batch_size=case.execution.micro_batch_size,
        seq_length=case.seq_length,
        step_times_s=times_s,
        work=work_of(step),
        work_s=work_seconds(step, found.operators, statistics.median(times_s)),
        evaluation_times_s=passes_s,
        evaluation_work=work_of(passes) if passes_s else (),
        evaluation_work_s=work_seconds(passes, evaluation.profile, statistics.median(passes_s))
        if evaluation and passes_s
        else (),
        resident_peak_bytes=found.resident_peak_bytes,
        baseline_resident_bytes=found.baseline_resident_bytes,
        weights_bytes=traced.weights_bytes,
        heap_bytes=traced.heap_bytes,
        load=found.load,
    )


def plausible_times(times_s: Iterable[float]) -> tuple[tuple[float, ...], str]:
    """Repeats of one step without those that a jumping clock made, and a sentence when there were such."""
    raw = tuple(times_s)
    positive = [t for t in raw if math.isfinite(t) and t > 0]
    kept = []
    for index, time_s in enumerate(positive):
        others = [*positive[:index], *positive[index + 1 :]]
        sibling_s = statistics.median(others) if others else time_s
        if sibling_s / JUMP_FACTOR <= time_s <= sibling_s * JUMP_FACTOR:
            kept.append(time_s)
    dropped = len(raw) - len(kept)
    if not dropped:
        return raw, ""
    return tuple(kept), (
        f"{dropped} of {len(raw)} step times were dropped: negative, zero or {JUMP_FACTOR:.0f} times off the others,"
        " so the clock jumped or the machine stood still"
    )
