"""Calibrate a device: trace, run a few real steps, replay what they did not show, fit, test, store."""

from __future__ import annotations

from dataclasses import replace

from advisor.calibration.ledger import CalibrationDatabase
from advisor.calibration.measure import (
    CalibrationRun,
    Progress,
    TracedItem,
    distinct_tasks,
    measure_item,
    replay,
    shape_of,
    trace_item,
)
from advisor.calibration.plan import (
    FULL_END_S,
    FULL_LIMIT_S,
    NOISY,
    BatchShape,
    BenchmarkCase,
    BenchmarkPlan,
    default_models,
    make_agenda,
    timeout_scale,
)
from advisor.core.coefficients import Calibration
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InterruptedByUser, RunFailed
from advisor.core.model import ModelSpec
from advisor.costmodel.time.operator_times import configuration_key, model_key

NOISY_STEPS = 0.15
"""Repeat noise of real steps above which the user is told that the machine is too busy."""

LEAST_ITEMS = 3
"""Configurations that are measured whatever it takes: fewer say nothing about others."""

SECOND_LOOK_SHARE = 0.85
"""Of the time for measuring, after which no steps are measured a second time."""


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
        model: Whose operators and steps; when ``None`` a MiniLM-size encoder, and unless ``quick`` a small decoder and
            a few steps of a BERT-base-size encoder. What was learned before with the same versions, of this model or
            others, is kept and not measured again.
        quick: At most about a minute instead of ten.
        device: Profile of this machine; the saved one when ``None``.
        on_progress: Receives the job's events.
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
    subjects = ((model, quick),) if model is not None else default_models(profile, quick=quick)
    with CalibrationDatabase(profile, fresh=fresh, keep=save) as ledger:
        report = on_progress or (lambda _text, _share: None)
        state = CalibrationRun(
            profile, tuple(subject for subject, _ in subjects), report, ledger, patience=timeout_scale(profile)
        )
        try:
            looks = []
            for number, (subject, briefly) in enumerate(subjects):
                state.number = number
                agenda = make_agenda(subject, profile, quick=briefly, known=_known_shapes(subject, ledger))
                agenda = agenda if briefly == quick else replace(agenda, limit_s=FULL_LIMIT_S, end_s=FULL_END_S)
                looks.append((number, agenda, _work_through(agenda, state)))
            for number, agenda, measured in looks:
                state.number = number
                _look_again(measured, agenda, state)
            calibration = _finish(state, "")
        except (KeyboardInterrupt, InterruptedByUser):
            raise InterruptedByUser("the calibration was interrupted", fix=_keep_partial(state, save)) from None
        if save:
            ledger.store(calibration)
    report("done", 1.0)
    return calibration


def _work_through(agenda: BenchmarkPlan, state: CalibrationRun) -> list[tuple[BenchmarkCase, TracedItem]]:
    """Trace, measure and replay what is not known; returns the configurations whose steps were measured."""
    ledger, key = state.ledger, model_key(state.model)
    if known := ledger.known_in_words():
        state.report(known, 0.0)
    to_measure = [item for item in agenda.items if not ledger.knows_steps(key, item)]
    to_trace = [item for item in agenda.items if item in to_measure or not ledger.knows_operators(key, item)]
    if to_trace:
        from advisor.measurement.server import context

        context()  # the server of the measuring processes imports while this process traces
    traced: list[tuple[BenchmarkCase, TracedItem]] = []
    for index, item in enumerate(to_trace):
        if index >= LEAST_ITEMS and state.seconds > agenda.limit_s * state.patience:
            left = ", ".join(f"{item.strategy.method} {shape_of(item)}" for item in to_trace[index:])
            state.notes.append(f"left out for lack of time: {left}; calibrate again to go on with them")
            break
        state.report(f"tracing {item.strategy.method}, {shape_of(item)}", state.share(index, len(to_trace)))
        found = trace_item(item, state)
        if found.operators:
            traced.append((item, found))
            if item in to_measure:
                what = f"running {item.steps} real steps of {item.strategy.method}, {shape_of(item)}"
                state.report(what, state.share(index + 0.4, len(to_trace)))
                measure_item(item, found, agenda, state)
    tasks = distinct_tasks([op for _, found in traced for op in found.operators])
    replay([task for task in tasks if not ledger.knows_call(task)], agenda, state)
    for item, found in traced:
        ledger.cover(key, item, distinct_tasks(found.operators))
    return [(item, found) for item, found in traced if item in to_measure]


def _look_again(measured: list[tuple[BenchmarkCase, TracedItem]], agenda: BenchmarkPlan, state: CalibrationRun) -> None:
    """Measure the same steps a second time, the noisy ones first, while there is time.

    On shared machines the same steps took up to 40 % longer some minutes earlier or later, at a repeat noise of 2 %:
    slow moments only show between processes.
    """
    quiet = {p.configuration for p in state.ledger.new_points if p.noise_relative <= NOISY}

    def is_quiet(item: BenchmarkCase) -> bool:
        return configuration_key(state.model, item.strategy, item.execution, item.seq_length) in quiet

    for item, traced in sorted(measured, key=lambda entry: is_quiet(entry[0])):
        if state.seconds > SECOND_LOOK_SHARE * agenda.limit_s * state.patience:
            return
        state.report(f"once more: {item.strategy.method}, {shape_of(item)}", 0.95)
        measure_item(replace(item, evaluated=False), traced, agenda, state)


def _known_shapes(model: ModelSpec, ledger: CalibrationDatabase) -> list[BatchShape]:
    configurations = {p.same_steps: p for p in ledger.points if p.model_key == model_key(model)}
    return [(p.micro_batch_size, p.seq_length) for p in configurations.values()]


def _finish(state: CalibrationRun, partial: str) -> Calibration:
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
    return ledger.calibration(seconds=state.seconds, partial=partial, notes=notes)


def _keep_partial(state: CalibrationRun, save: bool) -> str:
    """Fit and store what an interrupted calibration measured; returns where it is and how to go on."""
    ledger = state.ledger
    if not save or not (ledger.new_replays or ledger.new_points):
        if ledger.replays or ledger.points:
            return "what was measured before is kept; run `advisor calibrate` again to go on with it"
        return "nothing was measured yet; run `advisor calibrate` again"
    if ledger.keeps_complete_one:
        return "the complete calibration from before is kept; run `advisor calibrate` again to go on renewing it"
    path = ledger.store(_finish(state, "interrupted"))
    return f"what was measured is kept at {path}, marked partial; run `advisor calibrate` again to complete it"
