"""One configuration of an agenda: its traced operators, and its real steps."""

from __future__ import annotations

import statistics
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
    from advisor.measurement import StepMeasurement, StepRequest

STEP_TIMEOUT_S = 180.0
MIXED_LENGTH_STEPS = 10
"""After 12 steps of mixed lengths MiniLM's resident set was within 0.5 % of that after 30, without them 5 % below."""


def trace_item(item: Item, state: Gathered) -> list[TracedOp]:
    """Operators of one step with their replay signatures; empty (and noted) when it cannot be traced."""
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
        return []
    return [
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


def measure_item(item: Item, operators: list[TracedOp], agenda: Agenda, state: Gathered) -> None:
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
        state.ledger.keep_steps(_point(item, operators, found, times_s, state))


def _request(item: Item, agenda: Agenda, state: Gathered) -> StepRequest:
    from advisor.measurement import StepRequest

    on_cpu = state.device.type == "cpu"
    return StepRequest(
        state.model,
        item.strategy,
        item.execution,
        item.seq_length,
        steps=item.steps,
        warmup_steps=agenda.warmup_steps,
        mixed_length_steps=MIXED_LENGTH_STEPS if item.profiled else 0,
        profile_memory=item.profiled and on_cpu,
        profile_operators=on_cpu,
        evaluate=item.evaluated,
        device_type=state.device.type,
    )


def _point(
    item: Item, operators: list[TracedOp], found: StepMeasurement, times_s: tuple[float, ...], state: Gathered
) -> StepPoint:
    step = [op for op in operators if op.phase in STEP_PHASES]
    passes = [op for op in operators if op.phase == "evaluation"]
    profiled, evaluation = found.profiled, found.evaluation
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
        allocated_peak_bytes=found.allocated_peak_bytes,
        transient_peak_bytes=profiled.peak_bytes - profiled.live_before_bytes if profiled is not None else None,
        resident_peak_bytes=found.resident_peak_bytes,
        baseline_resident_bytes=found.baseline_resident_bytes,
    )


def shape_of(item: Item) -> str:
    """``"8 x 64 tokens"``"""
    return f"{item.execution.micro_batch_size} x {item.seq_length} tokens"
