"""What runs cost, for choosing the ladder: predicted where the device is calibrated, else scaled by a pilot run."""

from __future__ import annotations

import statistics
from pathlib import Path

from advisor.core.plan import Plan
from advisor.core.strategy import StrategyConfig
from advisor.search.study.clock import StudyClock
from advisor.search.study.context import OnEvent, Runner, StudyContext
from advisor.search.study.durations import predicted_s, run_cost
from advisor.search.study.evaluate import discard, run_evaluation
from advisor.search.study.feasible import warm_start
from advisor.search.study.records import Evaluation
from advisor.search.study.space import Space
from advisor.search.study.successive_halving import MIN_STEPS_PER_EPOCH, RunCost

TRUSTED_BASES = ("measured", "calibrated")
"""Time predictions that rest on this machine; others may be off by a factor, and with them the whole ladder."""


def ladder_costs(
    setting: StudyContext, space: Space, runner: Runner, clock: StudyClock, study_dir: Path, on_event: OnEvent | None
) -> list[RunCost]:
    """Cost of each method's first trial as a line in the training rows; empty when nothing is known.

    The pilot is the first method on the shortest runs that the ladder allows. Its fixed part and its time a row replace
    the prediction's; the other methods keep their predicted ratio to it.

    Raises:
        InterruptedByUser: Ctrl-C during the pilot.
        OutputError: the study's folder is full or read-only.
    """
    firsts = [space.config(warm_start(setting, method)) for method in space.methods]
    predicted = [run_cost(setting, strategy) for strategy in firsts]
    if _trusted(setting, firsts[0]):
        return [cost for cost in predicted if cost is not None]
    rows = min(setting.full_rows, MIN_STEPS_PER_EPOCH * setting.effective_batch_size)
    pilot = _run(setting, firsts[0], rows, runner, clock, study_dir / "pilot", on_event)
    if pilot is None or pilot.outcome != "completed" or not pilot.measurement.step_times_s:
        return [cost for cost in predicted if cost is not None]
    clock.note(predicted_s(setting, firsts[0], rows), pilot.total_s, rows)
    return _scaled(setting, firsts[0], predicted, pilot)


def _trusted(setting: StudyContext, strategy: StrategyConfig) -> bool:
    plan = setting.plan(strategy)
    time = plan.predicted.time if isinstance(plan, Plan) and plan.predicted is not None else None
    return time is not None and time.basis in TRUSTED_BASES


def _run(
    setting: StudyContext,
    strategy: StrategyConfig,
    rows: int,
    runner: Runner,
    clock: StudyClock,
    run_dir: Path,
    on_event: OnEvent | None,
) -> Evaluation | None:
    plan = setting.plan(strategy)
    if not isinstance(plan, Plan):
        return None
    if on_event is not None:
        on_event({"kind": "phase", "name": "a pilot run, because this device's speed is not calibrated"})
    discard(run_dir)
    evaluation = run_evaluation(setting, runner, plan, rows, run_dir, time_limit_s=clock.remaining_s, on_event=on_event)
    discard(run_dir)
    return evaluation


def _scaled(
    setting: StudyContext, strategy: StrategyConfig, predicted: list[RunCost | None], pilot: Evaluation
) -> list[RunCost]:
    """All methods at the pilot's pace."""
    step_s = statistics.median(pilot.measurement.step_times_s)
    per_row_s = step_s * strategy.num_train_epochs / setting.effective_batch_size
    fixed_s = max(0.0, pilot.total_s - per_row_s * pilot.train_rows)
    reference = predicted[0]
    if reference is None or reference.per_row_s == 0:
        return [RunCost(fixed_s, per_row_s)] * len(predicted)
    known = [cost for cost in predicted if cost is not None]
    return [RunCost(fixed_s, cost.per_row_s / reference.per_row_s * per_row_s) for cost in known]
