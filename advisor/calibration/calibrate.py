"""Calibrate a device: trace, run a few real steps, replay what they did not show, fit, cross-validate, store."""

from __future__ import annotations

from dataclasses import replace

from advisor.calibration.cross_validation import refit
from advisor.calibration.measure import (
    CalibrationRun,
    Measurer,
    Progress,
    TracedCase,
    distinct_tasks,
    measure_case,
    replay,
    shape_of,
    trace_case,
)
from advisor.calibration.merging import keep_replaced
from advisor.calibration.plan import FULL_END_S, FULL_LIMIT_S, NOISY, BenchmarkCase, BenchmarkPlan, default_models
from advisor.core.coefficients import Calibration
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InterruptedByUser, RunFailed
from advisor.core.model import ModelSpec
from advisor.core.units import counted
from advisor.costmodel.time.operator_times import configuration_key, model_key

NOISY_STEPS = 0.15
"""Repeat noise of real steps above which the user is warned that the machine is too busy."""

LEAST_CASES = 3
"""Configurations that are measured whatever it takes: fewer do not generalize to others."""

REPEAT_SHARE = 0.85
"""Of the time for measuring, after which no steps are measured a second time."""


def calibrate_device(
    model: ModelSpec | None = None,
    *,
    quick: bool = False,
    device: DeviceProfile | None = None,
    on_progress: Progress | None = None,
    fresh: bool = False,
    measurer: Measurer | None = None,
) -> Calibration:
    """Measure how fast this machine runs the operators and steps of a model.

    Args:
        model: Whose operators and steps; when ``None`` a MiniLM-size encoder, and unless ``quick`` a small decoder and
            a few steps of a BERT-base-size encoder. What was measured before with the same versions, of this model or
            others, is kept and not measured again.
        quick: At most about a minute instead of ten.
        device: Profile of this machine; the saved one when ``None``.
        on_progress: Called with what is being done.
        fresh: Measure everything anew; what is stored is replaced by the result.
        measurer: Traces, replays and runs; this machine when ``None``.

    Raises:
        DeviceError: this machine was not probed, the profile is a datasheet's, or what is stored is damaged or newer.
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
    models = ((model, quick),) if model is not None else default_models(profile, quick=quick)
    report = on_progress or (lambda _text, _share: None)
    with CalibrationRun(profile, [spec for spec, _ in models], measurer=measurer, report=report, fresh=fresh) as run:
        try:
            measured_by_model = []
            for number, (spec, briefly) in enumerate(models):
                run.number = number
                points = {p.same_steps: p for p in run.stored.points if p.model_key == model_key(spec)}
                shapes = [(p.micro_batch_size, p.seq_length) for p in points.values()]
                plan = run.measurer.plan(spec, profile, quick=briefly, measured=shapes)
                plan = plan if briefly == quick else replace(plan, limit_s=FULL_LIMIT_S, end_s=FULL_END_S)
                measured_by_model.append((number, plan, _work_through(plan, run)))
            for number, plan, measured in measured_by_model:
                run.number = number
                _measure_again(measured, plan, run)
            calibration = _finish(run, "")
        except (KeyboardInterrupt, InterruptedByUser):
            raise InterruptedByUser("the calibration was interrupted", fix=_keep_partial(run)) from None
    report("done", 1.0)
    return calibration


def _work_through(plan: BenchmarkPlan, run: CalibrationRun) -> list[tuple[BenchmarkCase, TracedCase]]:
    """Trace, measure and replay what was not measured before; returns the cases whose steps were measured."""
    key = model_key(run.model)
    if before := run.measured_before():
        run.report(before, 0.0)
    to_measure = [case for case in plan.cases if not run.has_steps(key, case)]
    to_trace = [case for case in plan.cases if case in to_measure or not run.has_operators(key, case)]
    traced: list[tuple[BenchmarkCase, TracedCase]] = []
    for index, case in enumerate(to_trace):
        if index >= LEAST_CASES and run.seconds > plan.limit_s * run.patience:
            left = ", ".join(f"{case.strategy.method} {shape_of(case)}" for case in to_trace[index:])
            run.notes.append(f"left out for lack of time: {left}; calibrate again to go on with them")
            break
        run.report(f"tracing {case.strategy.method}, {shape_of(case)}", run.share(index, len(to_trace)))
        found = trace_case(case, run)
        if found.operators:
            traced.append((case, found))
            if case in to_measure:
                what = f"running {case.steps} real steps of {case.strategy.method}, {shape_of(case)}"
                run.report(what, run.share(index + 0.4, len(to_trace)))
                measure_case(case, found, plan, run)
    tasks = distinct_tasks([op for _, found in traced for op in found.operators])
    replay([task for task in tasks if not run.has_call(task)], plan, run)
    for case, found in traced:
        run.cover(key, case, distinct_tasks(found.operators))
    return [(case, found) for case, found in traced if case in to_measure]


def _measure_again(measured: list[tuple[BenchmarkCase, TracedCase]], plan: BenchmarkPlan, run: CalibrationRun) -> None:
    """Measure the same steps a second time, the noisy ones first, while there is time.

    On shared machines the same steps took up to 40 % longer some minutes earlier or later, at a repeat noise of 2 %:
    slow moments only show between processes.
    """
    quiet = {p.configuration for p in run.new_points if p.noise_relative <= NOISY and not p.load}

    def is_quiet(case: BenchmarkCase) -> bool:
        return configuration_key(run.model, case.strategy, case.execution, case.seq_length) in quiet

    for case, traced in sorted(measured, key=lambda entry: is_quiet(entry[0])):
        if run.seconds > REPEAT_SHARE * plan.limit_s * run.patience:
            return
        run.report(f"once more: {case.strategy.method}, {shape_of(case)}", 0.95)
        measure_case(replace(case, evaluated=False), traced, plan, run)


def _finish(run: CalibrationRun, partial: str) -> Calibration:
    """Fit everything that was measured, now and before, and store it.

    Raises:
        OutputError: it cannot be written.
        RunFailed: there is nothing to fit.
    """
    run.report("fitting", 0.99)
    notes, points = list(run.notes), run.points_to_fit()
    if not points.replays and not points.points:
        raise RunFailed(
            "not one operator or step of this model could be measured",
            problems=list(dict.fromkeys(notes)),
            fix="calibrate without a model, or with another one",
        )
    noise = max((p.noise_relative for p in run.new_points), default=0.0)
    if noise > NOISY_STEPS:
        notes.append(f"real steps varied by up to ±{noise:.0%} between repeats: calibrate again on an idle machine")
    latest = {p.same_steps: p for p in run.new_points}
    if disturbed := [p for p in latest.values() if p.load]:
        notes.append(
            f"steps of {len(disturbed)} of {counted(len(latest), 'configuration')} were measured while "
            f"{disturbed[-1].load}: `advisor calibrate run` measures them again when it is quiet"
        )
    calibration = replace(
        refit(run.device, points),
        seconds=run.stored.seconds + run.seconds,
        partial=partial,
        notes=tuple(dict.fromkeys(notes)),
    )
    if (replaced := run.replaced()) is not None:
        keep_replaced(run.device, replaced)
    run.store(calibration)
    return calibration


def _keep_partial(run: CalibrationRun) -> str:
    """Fit and store what an interrupted calibration measured; returns where it is and how to go on."""
    if not run.new_replays and not run.new_points:
        if run.stored.replays or run.stored.points:
            return "what was measured before is kept; run `advisor calibrate run` again to go on with it"
        return "nothing was measured yet; run `advisor calibrate run` again"
    if (replaced := run.replaced()) is not None and not replaced.partial:
        return "the complete calibration from before is kept; run `advisor calibrate run` again to go on renewing it"
    _finish(run, "interrupted")
    kept = f"what was measured is kept at {run.database.path}, marked partial"
    return f"{kept}; run `advisor calibrate run` again to complete it"
