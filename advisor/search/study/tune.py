"""``tune_study``: set a study up or take it up again, run it, and name the winner."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from advisor.core.budget import Budget
from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import (
    BudgetError,
    InputError,
    InterruptedByUser,
    RunFailed,
)
from advisor.core.model import ModelSpec
from advisor.core.plan import Plan
from advisor.core.units import format_duration
from advisor.costmodel.model import CostModel
from advisor.search.planner import check_knobs, solve_execution
from advisor.search.study.context import ExecutionSolver, OnEvent, Runner, StudyContext
from advisor.search.study.durations import DurationEstimator, StudyClock
from advisor.search.study.feasible import warm_start
from advisor.search.study.files import StudyHeader, TrialFiles
from advisor.search.study.header import open_header
from advisor.search.study.loop import StudyLoop
from advisor.search.study.optuna_adapter import OptunaAdapter, open_study, owned
from advisor.search.study.records import NeverStarted, TuneResult
from advisor.search.study.trial_history import TrialHistory, pareto_points, winner
from advisor.strategies import Strategy, get_strategy, strategy_names


def tune_study(
    model: ModelSpec,
    data_spec: DataSpec,
    data_profile: DataProfile,
    cost_model: CostModel,
    budget: Budget,
    *,
    methods: Sequence[str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    time_budget_s: float,
    study_dir: Path,
    resume: bool = False,
    max_trials: int | None = None,
    seed: int = 42,
    effective_batch_size: int = 32,
    runner: Runner | None = None,
    solve: ExecutionSolver | None = None,
    strategies: Mapping[str, Strategy] | None = None,
    resume_command: str | None = None,
    on_event: OnEvent | None = None,
    now: Callable[[], float] = time.monotonic,
) -> TuneResult:
    """Search method, its own knobs and the relative learning rate for the best held-out quality inside ``budget``.

    Trials are judged on rows held out from the *training* rows; the held-out rows of ``data_spec`` stay unseen for the
    final run of the winner.

    Args:
        model: What is to be trained.
        data_spec: On what.
        data_profile: Of ``data_spec``, with the model's tokenizer.
        cost_model: Predicts memory and time, and says what fits.
        budget: Bounds of the final run; no trial that breaks them by prediction is started.
        methods: Names in the strategy registry; by default all that can be used as they are.
        knobs: Values by name that are given instead of searched, for every method that has them.
        time_budget_s: Wall clock that this call may take, planning included.
        study_dir: Folder of journal and records; created.
        resume: Go on with the study in ``study_dir`` (or begin it, if it was killed before it began).
        max_trials: Trials started over the study's whole life.
        seed: Of training and of the sampler.
        effective_batch_size: Rows per optimizer step.
        runner: Trains one plan in its own process; by default ``advisor.measurement.run.measure_run``.
        solve: Solves the execution knobs; by default the planner's.
        strategies: By name, instead of the registry.
        resume_command: Shown when the user interrupts.
        on_event: Receives ``{"kind": "trial", "state": ...}`` and the runs' own events with their trial.
        now: Clock of the time budget.

    Raises:
        NothingFitsError: no method fits the budget.
        RunFailed: no trial came to a result; the study can be resumed.
        InterruptedByUser: Ctrl-C; the study can be resumed.
        InputError: unknown method, a study about something else, a damaged study.
        OutputError: ``study_dir`` already holds a study, is in use, or cannot be written.
    """
    clock = StudyClock(time_budget_s, now)
    _check(time_budget_s, max_trials, data_profile)
    known = strategies if strategies is not None else {name: get_strategy(name) for name in methods or strategy_names()}
    available = {name: known[name] for name in methods or known}
    if knobs:
        check_knobs(knobs, tuple(available))
    setting = StudyContext(
        model,
        data_spec,
        data_profile,
        cost_model,
        budget,
        seed,
        effective_batch_size,
        solve or solve_execution,
        available,
        knobs or {},
    )
    with owned(study_dir), _interruptible(study_dir, resume_command):
        trains = runner or _measure_run()
        header = open_header(setting, study_dir, resume=resume, runner=trains, clock=clock, on_event=on_event)
        files = TrialFiles(study_dir)
        study, storage = open_study(
            study_dir, header.name, header.direction, seed=seed, defaults=len(header.space.methods)
        )
        teller = OptunaAdapter(study, storage, header.direction, setting.metric)
        teller.restore_lost(files)
        for space in header.space.methods:
            teller.enqueue_default(space.method, warm_start(setting, space))
        ledger = TrialHistory(header.ladder_rows)
        pace = DurationEstimator(setting, header.space, ledger, clock)
        loop = StudyLoop(setting, header.space, files, teller, ledger, pace, trains, max_trials, on_event)
        loop.run()
        return _result(setting, header, loop, study_dir)


def _check(time_budget_s: float, max_trials: int | None, profile: DataProfile) -> None:
    if not time_budget_s > 0:
        raise BudgetError(
            f"the time budget must be positive, but got {time_budget_s} s", fix="for example --budget 30min"
        )
    if max_trials is not None and max_trials < 1:
        raise InputError(f"max_trials >= 1 must hold, but got {max_trials}")
    if profile.train_rows < 2:
        raise InputError(f"tuning holds some training rows out and needs at least 2, but got {profile.train_rows}")


def _measure_run() -> Runner:
    from advisor.measurement.run import measure_run

    # A trial needs no allocated peak, so it is spared the extra process that profiles it.
    return functools.partial(measure_run, profile=False)


@contextlib.contextmanager
def _interruptible(study_dir: Path, resume_command: str | None) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, InterruptedByUser):
        raise InterruptedByUser(
            f"tuning was interrupted; the study in {study_dir} keeps every finished trial",
            fix=f"continue with: {resume_command}" if resume_command else "give the same command again with --resume",
        ) from None


def _result(setting: StudyContext, header: StudyHeader, loop: StudyLoop, study_dir: Path) -> TuneResult:
    trials = tuple(loop.ledger.trials[number] for number in sorted(loop.ledger.trials))
    best = winner(trials, setting.metric)
    plan: Any = setting.plan(best.strategy) if best is not None else None
    if best is None or not isinstance(plan, Plan):
        raise RunFailed(
            f"no trial came to a result: {loop.stopped_because}",
            problems=[
                f"trial {trial.number} ({trial.strategy.method}): {trial.reason}" for trial in trials if trial.reason
            ],
            fix=f"resume with a larger --budget; the shortest runs take {format_duration(loop.pace.typical_s(0))}",
        )
    plan.save(study_dir / "plan.json")
    refused = [
        NeverStarted(trial.number, trial.strategy.method, trial.reason, trial.params)
        for trial in trials
        if trial.verdict == "infeasible" and not trial.started
    ]
    return TuneResult(
        best=plan,
        best_trial=best.number,
        metric_name=setting.metric.name,
        trials=trials,
        pareto=pareto_points(trials, setting.metric),
        never_started=(*header.never_started, *refused),
        ladder_rows=header.ladder_rows,
        full_rows=header.full_rows,
        stopped_because=loop.stopped_because,
        elapsed_s=loop.pace.clock.elapsed_s,
        study_dir=str(study_dir),
        study_name=header.name,
    )
