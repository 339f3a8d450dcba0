"""One configuration of an agenda: its traced operators, and its real steps."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.core.errors import AdvisorError, InterruptedByUser
from advisor.costmodel.calibration.agenda import Agenda, Item
from advisor.costmodel.calibration.gathering import STEP_PHASES, Gathered
from advisor.costmodel.calibration.in_step import work_of, work_seconds
from advisor.costmodel.calibration.record import StepPoint
from advisor.costmodel.calibration.sanity import believable_times
from advisor.costmodel.time.keys import configuration_key, execution_key, model_key
from advisor.costmodel.trace.ops import TracedOp

if TYPE_CHECKING:
    from advisor.costmodel.trace.recorder import Recording
    from advisor.measurement import StepMeasurement, StepRequest

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


def trace_item(item: Item, state: Gathered) -> TracedItem:
    """Trace one step; a failure is noted."""
    from advisor.costmodel.trace.step import TraceRequest, trace_step

    request = TraceRequest(
        state.model,
        item.strategy,
        item.execution,
        item.seq_length,
        semantics=state.device.type,
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
    if state.device.type != "cpu":
        return TracedItem(operators)
    return TracedItem(operators, *_lasting_and_grown(item, recording))


def _lasting_and_grown(item: Item, recording: Recording) -> tuple[int, int]:
    """Bytes of the weights, and what equal training steps make the heap grow beyond them."""
    from advisor.costmodel.memory import heap_bytes, run_shapes, schedule
    from advisor.costmodel.trace.family import recorded_events

    log = recorded_events(recording)
    plan, sizes = replace(schedule(log), evaluation=[]), log.sizes_bytes.tolist()
    shapes = run_shapes(item.execution, 1, None, same_length=True)
    grown = heap_bytes(plan, dict.fromkeys((shapes.training, shapes.evaluation), sizes), shapes)
    return sum(sizes[number] for number in plan.weights), grown


def measure_item(item: Item, traced: TracedItem, agenda: Agenda, state: Gathered) -> None:
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


def _request(item: Item, agenda: Agenda, state: Gathered) -> StepRequest:
    from advisor.measurement import StepRequest

    return StepRequest(
        state.model,
        item.strategy,
        item.execution,
        item.seq_length,
        steps=item.steps,
        warmup_steps=agenda.warmup_steps,
        profile_operators=state.device.type == "cpu",
        evaluate=item.evaluated,
        device_type=state.device.type,
    )


def _point(
    item: Item, traced: TracedItem, found: StepMeasurement, times_s: tuple[float, ...], state: Gathered
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


def shape_of(item: Item) -> str:
    """``"8 x 64 tokens"``"""
    return f"{item.execution.micro_batch_size} x {item.seq_length} tokens"
