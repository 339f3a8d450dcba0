"""Calibrate a device: trace, replay operators, run a few real steps, fit, test, store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, DeviceError, InterruptedByUser, RunFailed
from advisor.core.model import ModelSpec
from advisor.costmodel.calibration.agenda import Agenda, Item, make_agenda
from advisor.costmodel.calibration.gathering import STEP_PHASES, Gathered, Progress, distinct_tasks, replay, work_of
from advisor.costmodel.calibration.ledger import Ledger
from advisor.costmodel.calibration.record import Calibration, StepPoint
from advisor.costmodel.calibration.sanity import believable_times, patience
from advisor.costmodel.time.keys import execution_key, model_key
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
    fresh: bool = False,
) -> Calibration:
    """Measure how fast this machine runs the operators and steps of a model.

    Args:
        model: Whose operators and steps; a MiniLM-size encoder when ``None``. What was learned before with the same
            versions, of this model or others, is kept and not measured again.
        quick: At most about a minute instead of ten.
        device: Profile of this machine; the saved one when ``None``.
        on_progress: Told what is being done.
        save: Store the result, and every point as soon as it was measured.
        fresh: Measure everything anew; what is stored is replaced by the result.

    Raises:
        DeviceError: this machine was not probed, the profile is a datasheet's, or a newer advisor wrote what is stored.
        OutputError: the user data directory cannot be written, or another calibration is under way.
        RunFailed: not one operator or step could be measured.
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
    with Ledger(profile, fresh=fresh, keep=save) as ledger:
        report = on_progress or (lambda _text, _share: None)
        state = Gathered(profile, subject, quick, report, ledger, patience=patience(profile))
        agenda = make_agenda(subject, profile, quick=quick)
        try:
            _work_through(agenda, state)
        except (KeyboardInterrupt, InterruptedByUser):
            raise InterruptedByUser("the calibration was interrupted", fix=_keep_partial(state, save)) from None
        calibration = _finish(state, "")
        if save:
            ledger.store(calibration)
    report("done", 1.0)
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
    ledger, key = state.ledger, model_key(state.model)
    if known := ledger.known_in_words():
        state.report(known, 0.0)
    to_measure = [item for item in agenda.items if item.measured and not _has_steps(item, agenda, state)]
    to_trace = [item for item in agenda.items if item in to_measure or not ledger.knows_operators(key, item)]
    if to_trace:
        from advisor.measurement.server import context

        context()  # the server of the measuring processes imports while this process traces
    traced: list[tuple[Item, list[TracedOp]]] = []
    for index, item in enumerate(to_trace):
        state.report(f"tracing {item.strategy.method}, {_shape(item)}", 0.2 * index / len(to_trace))
        operators = _traced(item, state)
        if operators:
            traced.append((item, operators))
    tasks = distinct_tasks([op for _, operators in traced for op in operators])
    replay([task for task in tasks if not ledger.knows_call(task)], agenda, state)
    for item, operators in traced:
        ledger.cover(key, item, distinct_tasks(operators))
    measured = [(item, operators) for item, operators in traced if item in to_measure]
    for index, (item, operators) in enumerate(measured):
        share = 0.5 + 0.48 * index / len(measured)
        state.report(f"running {agenda.steps} real steps of {item.strategy.method}, {_shape(item)}", share)
        _measure(item, operators, agenda, state)


def _has_steps(item: Item, agenda: Agenda, state: Gathered) -> bool:
    with_memory = item.profiled and state.device.type == "cpu"
    return state.ledger.knows_steps(model_key(state.model), item, agenda.steps, with_memory=with_memory)


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
        found = measure_steps(request, timeout_s=STEP_TIMEOUT_S * state.patience)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        state.notes.append(f"steps of {item.strategy.method}, {_shape(item)} were not measured: {failure.message}")
        return
    times_s, note = believable_times(found.step_times_s)
    if note:
        state.notes.append(f"{item.strategy.method}, {_shape(item)}: {note}")
    if not times_s:
        return
    state.ledger.keep_steps(
        StepPoint(
            model_key=model_key(state.model),
            method=item.strategy.method,
            execution_key=execution_key(item.execution),
            micro_batch_size=item.execution.micro_batch_size,
            seq_length=item.seq_length,
            step_times_s=times_s,
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
    """Join with what was known before, fit everything, and judge the fit.

    Raises:
        RunFailed: there is nothing to fit.
    """
    ledger, notes = state.ledger, list(state.notes)
    if not any((ledger.replays, ledger.points, ledger.new_replays, ledger.new_points)):
        raise RunFailed(
            "not one operator or step of this model could be measured",
            problems=list(dict.fromkeys(notes)),
            fix="calibrate without a model, or with another one",
        )
    noise = [p.noise_relative for p in ledger.new_points]
    if noise and max(noise) > NOISY_STEPS:
        notes.append(
            f"real steps varied by up to ±{max(noise):.0%} between repeats: calibrate again on an idle machine"
        )
    return ledger.calibration(seconds=time.perf_counter() - state.started_s, partial=partial, notes=notes)


def _keep_partial(state: Gathered, save: bool) -> str:
    """Fit and store what an interrupted calibration measured; returns where it is and how to go on."""
    ledger = state.ledger
    if not save or not (ledger.new_replays or ledger.new_points):
        return "nothing was measured yet; run `advisor calibrate` again"
    if ledger.fresh and ledger.earlier_is_complete:
        return "the complete calibration from before is kept; run `advisor calibrate` again to go on renewing it"
    path = ledger.store(_finish(state, "interrupted"))
    return f"what was measured is kept at {path}, marked partial; run `advisor calibrate` again to complete it"


def _shape(item: Item) -> str:
    return f"{item.execution.micro_batch_size} x {item.seq_length} tokens"
