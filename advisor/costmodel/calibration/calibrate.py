"""Calibrate a device: trace, replay operators, run a few real steps, fit, test, store."""

from __future__ import annotations

import dataclasses
import datetime
import time
from typing import TYPE_CHECKING

from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, DeviceError, InterruptedByUser
from advisor.core.model import ModelSpec
from advisor.costmodel.calibration.agenda import Agenda, Item, make_agenda
from advisor.costmodel.calibration.fit import fit_classes, fit_model_ratios, fit_resident, fit_step, held_out_error
from advisor.costmodel.calibration.gathering import STEP_PHASES, Gathered, Progress, distinct_tasks, replay, work_of
from advisor.costmodel.calibration.record import Calibration, ReplayPoint, StepPoint
from advisor.costmodel.calibration.store import current_versions, load_calibration, save_calibration
from advisor.costmodel.time.keys import execution_key, model_key
from advisor.costmodel.time.table import OperatorClock
from advisor.costmodel.trace.ops import TracedOp

if TYPE_CHECKING:
    from advisor.measurement import StepMeasurement

NOISY_STEPS = 0.15
"""Repeat noise of real steps above which the user is told that the machine is too busy."""
STEP_TIMEOUT_S = 180.0
MIXED_LENGTH_STEPS = 10
"""After 12 steps of mixed lengths MiniLM's resident set was within 0.5 % of that after 30, without them 5 % below."""


def calibrate_device(
    model: ModelSpec | None = None,
    *,
    quick: bool = False,
    device: DeviceProfile | None = None,
    on_progress: Progress | None = None,
    save: bool = True,
) -> Calibration:
    """Measure how fast this machine runs the operators and steps of a model.

    Args:
        model: Whose operators and steps; a MiniLM-size encoder when ``None``. What was learned with other models on the
            same versions is kept and used too.
        quick: At most about a minute instead of ten.
        device: Profile of this machine; the saved one when ``None``.
        on_progress: Told what is being done.
        save: Store the result.

    Raises:
        DeviceError: this machine was not probed, or the profile is a datasheet's.
        InterruptedByUser: Ctrl-C; what was measured is fitted and stored, marked partial.
    """
    from advisor.hardware import this_device

    profile = device or this_device()
    if profile.basis != "measured":
        raise DeviceError(
            f"only the machine at hand can be calibrated, but {profile.id} is a datasheet profile",
            fix="run `advisor probe`",
        )
    subject = model or default_model()
    state = Gathered(profile, subject, quick, on_progress or (lambda _text, _share: None))
    agenda = make_agenda(subject, profile, quick=quick)
    try:
        _work_through(agenda, state)
    except (KeyboardInterrupt, InterruptedByUser):
        raise InterruptedByUser("the calibration was interrupted", fix=_keep_partial(state, save)) from None
    calibration = _finish(state, "")
    if save:
        save_calibration(calibration)
    state.report("done", 1.0)
    return calibration


def default_model() -> ModelSpec:
    """An encoder of MiniLM-L6's size without weights: small, and with the operators that every transformer has."""
    from transformers import BertConfig

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    values = {**config.to_dict(), "architectures": ["BertForSequenceClassification"]}
    return ModelSpec(
        source="MiniLM-size encoder",
        kind="config",
        task="sequence-classification",
        config=values,
        model_type="bert",
        total_parameters=22_714_754,
        hidden_size=384,
        num_hidden_layers=6,
        vocab_size=30522,
        max_positions=512,
    )


def _work_through(agenda: Agenda, state: Gathered) -> None:
    from advisor.measurement.server import context

    context()  # the server of the measuring processes imports while this process traces
    traced: list[tuple[Item, list[TracedOp]]] = []
    for index, item in enumerate(agenda.items):
        state.report(f"tracing {item.strategy.method}, {_shape(item)}", 0.2 * index / len(agenda.items))
        operators = _traced(item, state)
        if operators:
            traced.append((item, operators))
    tasks = distinct_tasks([op for _, operators in traced for op in operators])
    replay(tasks, agenda, state)
    measured = [(item, operators) for item, operators in traced if item.measured]
    for index, (item, operators) in enumerate(measured):
        share = 0.5 + 0.48 * index / len(measured)
        state.report(f"running {agenda.steps} real steps of {item.strategy.method}, {_shape(item)}", share)
        _measure(item, operators, agenda, state)


def _traced(item: Item, state: Gathered) -> list[TracedOp]:
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


def _measure(item: Item, operators: list[TracedOp], agenda: Agenda, state: Gathered) -> None:
    from advisor.measurement import StepRequest, measure_steps

    request = StepRequest(
        state.model,
        item.strategy,
        item.execution,
        item.seq_length,
        steps=agenda.steps,
        warmup_steps=agenda.warmup_steps,
        mixed_length_steps=MIXED_LENGTH_STEPS if item.profiled else 0,
        profile_memory=item.profiled and state.device.type == "cpu",
        device_type=state.device.type,
    )
    try:
        found = measure_steps(request, timeout_s=STEP_TIMEOUT_S)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        state.notes.append(f"steps of {item.strategy.method}, {_shape(item)} were not measured: {failure.message}")
        return
    state.points.append(
        StepPoint(
            model_key=model_key(state.model),
            method=item.strategy.method,
            execution_key=execution_key(item.execution),
            micro_batch_size=item.execution.micro_batch_size,
            seq_length=item.seq_length,
            step_times_s=found.step_times_s,
            work=work_of(operators),
            allocated_peak_bytes=found.allocated_peak_bytes,
            transient_peak_bytes=_transient_bytes(found),
            resident_peak_bytes=found.resident_peak_bytes,
            baseline_resident_bytes=found.baseline_resident_bytes,
            held_back=item.held_back,
        )
    )


def _transient_bytes(found: StepMeasurement) -> int | None:
    return found.profiled.peak_bytes - found.profiled.live_before_bytes if found.profiled is not None else None


def _finish(state: Gathered, partial: str) -> Calibration:
    """Join with what is known from other models under the same versions, fit everything, and judge the fit."""
    versions = current_versions(state.device)
    replays, points = _with_earlier(state, versions)
    classes, single = fit_classes(replays)
    table = Calibration(state.device.id, versions, "", classes, single)
    clock = OperatorClock(state.device, table)
    used = [p for p in points if not p.held_back]
    notes = list(dict.fromkeys(state.notes))
    step = fit_step(used, clock)
    noise = [p.noise_relative for p in state.points]
    if noise and max(noise) > NOISY_STEPS:
        notes.append(
            f"real steps varied by up to ±{max(noise):.0%} between repeats: calibrate again on an idle machine"
        )
    return dataclasses.replace(
        table,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        step=step,
        model_ratios=fit_model_ratios(used, step, clock),
        resident=fit_resident(points) if state.device.type == "cpu" else None,
        held_out=held_out_error(points, clock),
        replays=tuple(replays),
        points=tuple(points),
        seconds=time.perf_counter() - state.started_s,
        partial=partial,
        notes=tuple(notes),
    )


def _with_earlier(state: Gathered, versions: dict[str, str]) -> tuple[list[ReplayPoint], list[StepPoint]]:
    """New data, plus stored data of other models if the versions are the same."""
    try:
        earlier = load_calibration(state.device.id)
    except DeviceError:
        earlier = None
    if earlier is None or earlier.versions != versions:
        return state.replays, state.points
    mine = model_key(state.model)
    fresh = {(p.name, p.flops, p.moved_bytes, p.key) for p in state.replays}
    replays = [p for p in earlier.replays if (p.name, p.flops, p.moved_bytes, p.key) not in fresh]
    points = [p for p in earlier.points if p.model_key != mine or not state.points]
    return [*state.replays, *replays], [*state.points, *points]


def _keep_partial(state: Gathered, save: bool) -> str:
    if not save or not state.replays:
        return "nothing was measured yet; run `advisor calibrate` again"
    try:
        earlier = load_calibration(state.device.id)
    except DeviceError:
        earlier = None
    if earlier is not None and not earlier.partial:
        return "the complete calibration from before is kept; run `advisor calibrate` again to renew it"
    path = save_calibration(_finish(state, "interrupted"))
    return f"what was measured is kept at {path}, marked partial; run `advisor calibrate` again to complete it"


def _shape(item: Item) -> str:
    return f"{item.execution.micro_batch_size} x {item.seq_length} tokens"
