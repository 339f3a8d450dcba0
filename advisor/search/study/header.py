"""A new study's space and ladder, or an old study's, if it is about the same thing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from advisor.core.errors import AdvisorError, InputError, NothingFitsError, OutputError
from advisor.core.plan import Plan
from advisor.core.strategy import StrategyConfig
from advisor.search.planner.candidates import ineligible
from advisor.search.study.context import OnEvent, Runner, StudyContext, identity_hash
from advisor.search.study.durations import StudyClock, predicted_s, run_cost
from advisor.search.study.evaluate import discard, run_evaluation
from advisor.search.study.feasible import feasible_space, warm_start
from advisor.search.study.files import StudyHeader, load_header
from advisor.search.study.records import Evaluation, NeverStarted
from advisor.search.study.space import MethodSpace, Space, method_space
from advisor.search.study.successive_halving import MIN_STEPS_PER_EPOCH, RunCost, choose_ladder

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


def open_header(
    setting: StudyContext, study_dir: Path, *, resume: bool, runner: Runner, clock: StudyClock, on_event: OnEvent | None
) -> StudyHeader:
    """The study in the folder when resuming, else a new one.

    Raises:
        OutputError: a study is there and ``resume`` was not given.
        InputError: the study there is about something else.
    """
    declared, unusable = declared_methods(setting)
    identity = setting.identity(declared)
    known = load_header(study_dir)
    if known is None:
        header = _new_header(setting, declared, unusable, identity, study_dir, runner, clock, on_event)
        header.save(study_dir)
        return header
    if not resume:
        raise OutputError(
            f"a new study needs a folder of its own, but {study_dir} holds one",
            fix="pass --resume, or name another folder",
        )
    before = known.identity
    changed = [f"{part}: was {before.get(part)}, is {now}" for part, now in identity.items() if before.get(part) != now]
    if changed:
        raise InputError(
            f"a resumed study must be about the same thing, but the one in {study_dir} differs",
            problems=changed,
            fix="repeat the first command's options, or start a new study in another folder",
        )
    return known


def declared_methods(setting: StudyContext) -> tuple[Space, list[NeverStarted]]:
    """The declared space of every method that has defaults for this model, and why the others have none."""
    spaces: list[MethodSpace] = []
    unusable: list[NeverStarted] = []
    for name, strategy in setting.strategies.items():
        if strategy.user_knob is not None and strategy.user_knob not in setting.knobs:
            unusable.append(NeverStarted(None, name, str(ineligible(strategy, setting.model))))
            continue
        try:
            spaces.append(method_space(strategy, setting.model, setting.knobs))
        except AdvisorError as failure:
            unusable.append(NeverStarted(None, name, failure.message))
    return Space(tuple(spaces)), unusable


def _new_header(
    setting: StudyContext,
    declared: Space,
    unusable: Sequence[NeverStarted],
    identity: dict[str, str],
    study_dir: Path,
    runner: Runner,
    clock: StudyClock,
    on_event: OnEvent | None,
) -> StudyHeader:
    space, cut = feasible_space(setting, declared, clock, on_event)
    never_started = (*unusable, *cut)
    if not space.methods:
        raise NothingFitsError(
            "no method fits the budget, so there is nothing to tune",
            problems=[f"{entry.method}: {entry.reason}" for entry in never_started],
            fix="raise --memory or --time, or shorten the sequences",
        )
    costs = ladder_costs(setting, space, runner, clock, study_dir, on_event)
    ladder = choose_ladder(setting.full_rows, setting.effective_batch_size, costs, clock.remaining_s)
    complete = ladder[-1] >= setting.full_rows
    return StudyHeader(
        name=f"tune-{identity_hash(identity)}",
        identity=identity,
        space=space,
        never_started=never_started,
        ladder_rows=ladder,
        full_rows=setting.full_rows,
        direction="maximize" if complete and not setting.metric.is_relative else "minimize",
    )
