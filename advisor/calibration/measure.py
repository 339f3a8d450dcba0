"""What a calibration gathers, and the replay of distinct calls in isolated processes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from advisor.calibration.ledger import CalibrationDatabase
from advisor.calibration.plan import BenchmarkCase, BenchmarkPlan
from advisor.calibration.profiled_ops import work_of, work_seconds
from advisor.calibration.replay import ReplayTask, replay_all
from advisor.core.coefficients import StepPoint
from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, InterruptedByUser
from advisor.core.model import ModelSpec
from advisor.costmodel.time.operator_times import configuration_key, execution_key, model_key
from advisor.hardware.backends import backend_of
from advisor.tracing.ops import TracedOp, class_key

if TYPE_CHECKING:
    from advisor.measurement import StepMeasurement, StepRequest
    from advisor.tracing.recorder import Recording

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

JUMP_FACTOR = 100.0
"""A repeat this many times longer or shorter than its siblings did not take that time: the clock jumped, or the machine
was suspended. Real repeats of one step differ by a factor of two on the busiest machines."""
LEAST_REPLAY_S = 5.0
"""For replays where measuring steps has used up the time."""
MAX_CRASHES = 3
"""Replays that may kill their process before the rest is given up."""
STEP_PHASES = ("forward", "backward", "optimizer")


@dataclass
class CalibrationRun:
    """Work so far; turned into a record also when the work is interrupted.

    Attributes:
        subjects: Models to calibrate with, one after the other.
        number: Which of them it is now.
        ledger: What was known before, and where new points are kept.
        patience: How much longer than usual a process may take on this machine.
    """

    device: DeviceProfile
    subjects: tuple[ModelSpec, ...]
    report: Progress
    ledger: CalibrationDatabase
    number: int = 0
    patience: float = 1.0
    started_s: float = field(default_factory=time.perf_counter)
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> ModelSpec:
        """The one at work."""
        return self.subjects[self.number]

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.started_s

    def share(self, done: float, of: int) -> float:
        """Of all the work when ``done`` of the present model's ``of`` parts are."""
        return (self.number + done / max(of, 1)) / len(self.subjects)


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


def replay(tasks: list[ReplayTask], agenda: BenchmarkPlan, state: CalibrationRun) -> None:
    """Replay in isolated processes; one that a call kills is started again behind that call."""
    from advisor.measurement import isolated

    left_s = max(agenda.end_s * state.patience - state.seconds, LEAST_REPLAY_S)
    first, crashes, deadline = 0, 0, time.perf_counter() + min(agenda.replay_s, left_s)
    while first < len(tasks) and crashes < MAX_CRASHES:
        seen = _Seen(state, tasks, first)
        result = isolated(
            replay_all,
            tasks[first:],
            device=backend_of(state.device).torch_device,
            num_threads=state.device.num_threads,
            budget_s=max(deadline - time.perf_counter(), 0.0),
            per_call_s=agenda.call_s,
            on_event=seen,
            timeout_s=(agenda.replay_s * 3 + 60) * state.patience,
        )
        if result.outcome == "interrupted":
            raise InterruptedByUser("replaying was interrupted")
        if result.outcome == "completed":
            return
        crashes += 1
        state.notes.append(f"replaying {tasks[first + seen.last].name} ended its process: {result.reason}")
        state.ledger.skip_call(tasks[first + seen.last])
        first += seen.last + 1


class _Seen:
    """Collects the events of a replaying process."""

    def __init__(self, state: CalibrationRun, tasks: list[ReplayTask], first: int) -> None:
        self.last = 0
        self._state, self._tasks, self._first = state, tasks, first

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "begin":
            self.last = event["index"]
            return
        number = self._first + event["index"]
        if kind == "point":
            if note := self._state.ledger.keep_replay(self._tasks[number], event["point"]):
                self._state.notes.append(note)
            done = (number + 1) / len(self._tasks)
            self._state.report(f"timing operators: {event['point'].name}", self._state.share(0.9 + 0.1 * done, 1))
        elif kind == "skipped":
            self._state.ledger.skip_call(self._tasks[number])
            self._state.notes.append(f"not replayed: {event['reason']}")


# --------------------
# One configuration of an agenda: its traced operators, and its real steps.

STEP_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class TracedItem:
    """What the trace of a configuration says.

    Attributes:
        operators: Of one step, with their replay signatures; none when it cannot be traced.
        weights_bytes, heap_bytes: As in ``StepPoint``.
    """

    operators: list[TracedOp]
    weights_bytes: int = 0
    heap_bytes: int = 0


def trace_item(item: BenchmarkCase, state: CalibrationRun) -> TracedItem:
    """Trace one step; a failure is noted."""
    from advisor.tracing.step import TraceRequest, trace_step

    request = TraceRequest(
        state.model,
        item.strategy,
        item.execution,
        item.seq_length,
        semantics=backend_of(state.device).traced_as,
        compute_capability=state.device.compute_capability,
        keep_signatures=True,
        evaluation=item.evaluated,
    )
    try:
        recording = trace_step(request).recording
    except AdvisorError as failure:
        state.notes.append(f"{item.strategy.method} was left out: {failure.message}")
        return TracedItem([])
    operators = [
        TracedOp(
            op.name,
            op.phase,  # type: ignore[arg-type]
            op.flops,
            sum(op.read_bytes),
            sum(op.written_bytes),
            op.dtype,
            op.signature,
        )
        for op in recording.operators
        if op.phase in (*STEP_PHASES, "evaluation")
    ]
    if backend_of(state.device).memory.allocator != "heap":
        return TracedItem(operators)
    return TracedItem(operators, *_lasting_and_grown(item, recording))


def _lasting_and_grown(item: BenchmarkCase, recording: Recording) -> tuple[int, int]:
    """Bytes of the weights, and what equal training steps make the heap grow beyond them."""
    from advisor.costmodel.memory import heap_bytes, run_shapes, schedule
    from advisor.tracing.symbolic_trace import recorded_events

    log = recorded_events(recording)
    plan, sizes = replace(schedule(log), evaluation=[]), log.sizes_bytes.tolist()
    shapes = run_shapes(item.execution, 1, None, same_length=True)
    grown = heap_bytes(plan, dict.fromkeys((shapes.training, shapes.evaluation), sizes), shapes)
    return sum(sizes[number] for number in plan.weights), grown


def measure_item(item: BenchmarkCase, traced: TracedItem, agenda: BenchmarkPlan, state: CalibrationRun) -> None:
    """Run real steps of a configuration and keep what they took; what cannot be measured is noted."""
    from advisor.measurement import measure_steps

    try:
        found = measure_steps(_request(item, agenda, state), timeout_s=STEP_TIMEOUT_S * state.patience)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        state.notes.append(f"steps of {item.strategy.method}, {shape_of(item)} were not measured: {failure.message}")
        return
    times_s, note = believable_times(found.step_times_s)
    if note:
        state.notes.append(f"{item.strategy.method}, {shape_of(item)}: {note}")
    if times_s:
        state.ledger.keep_steps(_point(item, traced, found, times_s, state))


def _request(item: BenchmarkCase, agenda: BenchmarkPlan, state: CalibrationRun) -> StepRequest:
    from advisor.measurement import StepRequest

    return StepRequest(
        state.model,
        item.strategy,
        item.execution,
        item.seq_length,
        steps=item.steps,
        warmup_steps=agenda.warmup_steps,
        profile_operators=backend_of(state.device).is_host,
        evaluate=item.evaluated,
        device_type=state.device.type,
    )


def _point(
    item: BenchmarkCase, traced: TracedItem, found: StepMeasurement, times_s: tuple[float, ...], state: CalibrationRun
) -> StepPoint:
    step = [op for op in traced.operators if op.phase in STEP_PHASES]
    passes = [op for op in traced.operators if op.phase == "evaluation"]
    evaluation = found.evaluation
    passes_s = believable_times(evaluation.times_s)[0] if evaluation and passes else ()
    return StepPoint(
        model_key=model_key(state.model),
        method=item.strategy.method,
        execution_key=execution_key(item.execution),
        configuration=configuration_key(state.model, item.strategy, item.execution, item.seq_length),
        micro_batch_size=item.execution.micro_batch_size,
        seq_length=item.seq_length,
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
    )


def shape_of(item: BenchmarkCase) -> str:
    """``"8 x 64 tokens"``"""
    return f"{item.execution.micro_batch_size} x {item.seq_length} tokens"


def believable_times(times_s: Iterable[float]) -> tuple[tuple[float, ...], str]:
    """Repeats of one step without those that a jumping clock made, and a sentence when there were such.

    Args:
        times_s: Raw repeats, seconds.
    """
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
