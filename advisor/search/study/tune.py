"""``tune_study``: set a study up or take it up again, run it, and name the winner."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.benchmark import BenchmarkSettings
from advisor.core.budget import Budget
from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import (
    AdvisorError,
    BudgetError,
    InputError,
    InterruptedByUser,
    NothingFitsError,
    RunFailed,
)
from advisor.core.model import ModelSpec
from advisor.core.objective import DEFAULT_OBJECTIVE, Objective
from advisor.core.pack import AUTO_PACK, PackChoice
from advisor.core.plan import ExecutionPlan, Plan
from advisor.costmodel.model import CostModel
from advisor.search.planner import check_knobs
from advisor.search.planner.candidates import ineligible
from advisor.search.study.agenda import Agenda
from advisor.search.study.context import ExecutionSolver, OnEvent, PackPredictor, PackRunner, Runner, StudyContext
from advisor.search.study.durations import DurationEstimator, EnergyAccount, StudyClock, grace_s, run_cost
from advisor.search.study.loop import StudyLoop
from advisor.search.study.packing import TrialPacking
from advisor.search.study.records import FinalRun, NeverStarted, TuneResult
from advisor.search.study.solving import StoppableSolver, predict_pack
from advisor.search.study.space import RACE, MethodSpace, Space, method_space, shared_axes
from advisor.search.study.stop_rules import StopRules
from advisor.search.study.storage import StudyStorage, open_study, owned
from advisor.search.study.successive_halving import choose_ladder, floor_of, with_known_rungs
from advisor.search.study.trial_history import TrialHistory, leaderboard, pareto_points, race_points, reaching
from advisor.strategies import DEFAULT_METHOD, Strategy, get_strategy, strategy_names

if TYPE_CHECKING:
    import optuna

RESULT_PREDICTION_S = 2.0
"""Time for predicting the cost of the best plan at the end of a call, where it is not known by then."""

PLAN_FILE = "plan.json"


class StudyInterrupted(InterruptedByUser):
    """Ctrl-C ended a call.

    Attributes:
        result: What the study knows so far.
    """

    result: TuneResult


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
    pack: PackChoice = AUTO_PACK,
    pack_runner: PackRunner | None = None,
    final_runner: Runner | None = None,
    predict_pack: PackPredictor = predict_pack,
    strategies: Mapping[str, Strategy] | None = None,
    storage: optuna.storages.BaseStorage | None = None,
    first_plan: ExecutionPlan | None = None,
    objective: Objective = DEFAULT_OBJECTIVE,
    energy_budget_j: float | None = None,
    outputs: Sequence[Path] = (),
    resume_command: str | None = None,
    on_event: OnEvent | None = None,
    now: Callable[[], float] = time.monotonic,
    started_at: float = math.nan,
) -> TuneResult:
    """Search method, its own knobs and the relative learning rate for the best held-out quality inside ``budget``.

    ``plan.json`` in the study's folder is the best plan from the first second on: the recommended default before any
    trial, then whatever leads. It stays there however the call ends.

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
        time_budget_s: Wall clock that this call may take, planning and the final run included. It is exceeded by at
            most a step and saving.
        study_dir: Folder of the study; created.
        resume: Go on with the study in ``study_dir`` (or begin it, if it was killed before it began).
        max_trials: Trials started over the study's whole life.
        seed: Of training and of the sampler.
        effective_batch_size: Rows per optimizer step.
        runner: Trains one plan in its own process; by default ``advisor.measurement.run.measure_run``.
        solve: Solves the execution knobs; by default the planner's, in a process that can be stopped.
        pack: Whether trials are trained in one pass over the frozen model, where they can be.
        pack_runner: Trains a pack in its own process; by default ``advisor.measurement.packed_run.measure_pack``, and
            with a ``runner`` of the caller none: then nothing is packed.
        final_runner: Trains the final run and measures the benchmark core, if there is time for both; by default
            ``measure_run``, or ``runner`` where the caller has one.
        predict_pack: What a pack costs; by default predicted in a process that can be stopped.
        strategies: By name, instead of the registry.
        storage: Of Optuna, instead of SQLite in the study's folder.
        first_plan: Execution knobs of the plan that is written before any cost was predicted.
        objective: What the answer is.
        energy_budget_j: What the runs of this call may take, by the device's own meter.
        outputs: Further files that always hold the best plan so far.
        resume_command: Shown when the user interrupts.
        on_event: Receives ``{"kind": "trial", "state": ...}`` and the runs' own events with their trial.
        now: Clock of the time budget.
        started_at: When the call began, on that clock, for callers that had work to do before; by default now.

    Raises:
        NothingFitsError: no method fits the budget.
        RunFailed: every trial failed; the plan is then the recommended default, untried.
        StudyInterrupted: Ctrl-C or SIGTERM; the study can be resumed.
        InputError: unknown method, a study about something else, a damaged study.
        OutputError: ``study_dir`` already holds a study, is in use, or cannot be written.
    """
    clock = StudyClock(time_budget_s, now, started_at)
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
        solve or StoppableSolver(),
        available,
        knobs or {},
        first_plan,
        objective,
    )
    with owned(study_dir):
        space, unusable = declared_methods(setting)
        if not space.methods:
            raise _nothing_fits(unusable)
        opened = open_study(study_dir, setting.identity(space), space, seed=seed, resume=resume, storage=storage)
        job = _Job(setting, space, tuple(unusable), opened, clock, study_dir, (study_dir / PLAN_FILE, *outputs))
        trains = runner or _measure_run(time_budget_s)
        verifies = final_runner or runner or _measure_run(time_budget_s, BenchmarkSettings())
        packs = pack_runner or (_measure_pack(time_budget_s) if runner is None and not pack.off else None)
        packing = TrialPacking(setting, pack, packs, predict_pack, on_event)
        energy = EnergyAccount(energy_budget_j)
        return job.run(trains, verifies, max_trials, resume_command, on_event, energy, packing)


def declared_methods(setting: StudyContext) -> tuple[Space, list[NeverStarted]]:
    """The declared space of every method that has defaults for this model, and why the others have none."""
    spaces: list[MethodSpace] = []
    unusable: list[NeverStarted] = []
    for name, strategy in setting.strategies.items():
        reason = ineligible(strategy, setting.model, setting.knobs)
        if reason is None:
            try:
                spaces.append(method_space(strategy, setting.model, setting.knobs))
                continue
            except AdvisorError as failure:
                reason = failure.message
        unusable.append(NeverStarted(None, name, reason))
    return Space(tuple(spaces), shared_axes(setting.knobs)), unusable


def _check(time_budget_s: float, max_trials: int | None, profile: DataProfile) -> None:
    if not time_budget_s > 0:
        raise BudgetError(
            f"the time budget must be positive, but got {time_budget_s} s", fix="for example --budget 30min"
        )
    if max_trials is not None and max_trials < 1:
        raise InputError(f"max_trials >= 1 must hold, but got {max_trials}")
    if profile.train_rows < 2:
        raise InputError(f"tuning holds some training rows out and needs at least 2, but got {profile.train_rows}")


def _measure_run(time_budget_s: float, benchmark: BenchmarkSettings | None = None) -> Runner:
    from advisor.measurement.run import measure_run

    # A trial needs no allocated peak, so it is spared the extra process that profiles it.
    return functools.partial(measure_run, profile=False, benchmark=benchmark, grace_s=grace_s(time_budget_s))


def _measure_pack(time_budget_s: float) -> PackRunner:
    from advisor.measurement.packed_run import measure_pack

    return functools.partial(measure_pack, grace_s=grace_s(time_budget_s))


def _nothing_fits(reasons: Sequence[NeverStarted]) -> NothingFitsError:
    return NothingFitsError(
        "no method fits the budget, so there is nothing to tune",
        problems=[f"{entry.method}: {entry.reason}" for entry in reasons],
        fix="raise --memory or --time, or shorten the sequences",
    )


@dataclasses.dataclass
class _Job:
    """One call on a study that is open."""

    setting: StudyContext
    space: Space
    unusable: tuple[NeverStarted, ...]
    storage: StudyStorage
    clock: StudyClock
    study_dir: Path
    outputs: tuple[Path, ...]
    _written: Plan | None = None

    def run(
        self,
        runner: Runner,
        final_runner: Runner,
        max_trials: int | None,
        resume_command: str | None,
        on_event: OnEvent | None,
        energy: EnergyAccount,
        packing: TrialPacking,
    ) -> TuneResult:
        history = TrialHistory((self.setting.full_rows,))
        history.trials = {trial.number: trial for trial in self.storage.trials()}
        agenda = Agenda(self.setting, self.space, self.storage, self.clock, on_event)
        pace = DurationEstimator(self.setting, history, self.clock)
        loop = StudyLoop(
            self.setting,
            self.space,
            self.storage,
            history,
            agenda,
            pace,
            runner,
            self._write,
            StopRules(self.setting, history, pace, max_trials, energy),
            on_event,
            packing,
            final_runner,
        )
        self._write(loop.best_plan() or self.setting.unpredicted_plan(self._first_default()))
        skipped = "the study was interrupted"
        try:
            with _terminating():
                self._prepare(loop)
                loop.run()
                best = self._best(loop)
                answer = loop.final_run(best) if loop.best is not None else "no trial says anything about quality yet"
        except (KeyboardInterrupt, InterruptedByUser):
            loop.stopped_because = "it was interrupted"
            result = self._result(loop, None, skipped, interrupted=True)
            raise self._interrupted(result, resume_command) from None
        final = answer if isinstance(answer, FinalRun) else None
        return self._result(loop, final, "" if final is not None else str(answer))

    def _first_default(self) -> Any:
        strategies = self.setting.strategies
        names = sorted((m.method for m in self.space.methods), key=lambda name: strategies[name].fits_frozen_features)
        return self.space.method(DEFAULT_METHOD if DEFAULT_METHOD in names else names[0]).default

    def _prepare(self, loop: StudyLoop) -> None:
        """Which method is recommended, and how long its runs must be; both are looked at anew in every call.

        Raises:
            NothingFitsError: nothing fits.
        """
        history, agenda = loop.history, loop.agenda
        settled = [t for t in history.trials.values() if t.origin == "recommended" and t.started]
        agenda.rank_methods(settled[0].strategy.method if settled else None)
        if not agenda.order:
            for path in self.outputs:
                path.unlink(missing_ok=True)
            reasons = _skipped(agenda)
            raise _nothing_fits([*self.unusable, *reasons])
        default = self.space.config(agenda.start_params(agenda.order[0]))
        found = self.setting.plan(default, time_limit_s=0.1) if self.setting.is_predicted(default) else None
        plan = found if isinstance(found, Plan) else None
        for trial in history.trials.values():
            for evaluation in trial.evaluations:
                loop.pace.learn(trial, evaluation)
        if loop.best is None:
            self._write(plan or self.setting.unpredicted_plan(default))
        loop.pace.reserve(loop.best_plan() or plan or self.setting.unpredicted_plan(default))
        factor = self.clock.expect_s(1.0, 1)
        history.ladder_rows = with_known_rungs(
            choose_ladder(
                self.setting.full_rows,
                floor_of(self.setting.effective_batch_size, default.num_train_epochs),
                run_cost(self.setting, plan, factor),
                self.clock.remaining_s,
                openings=len(agenda.order) + len(RACE),
                race=1 + len(RACE),
            ),
            history.known_rows,
            self.setting.full_rows,
        )

    def _write(self, plan: Plan) -> None:
        """Keep the best plan so far where the user finds it, whatever happens next."""
        if plan != self._written:
            for path in self.outputs:
                plan.save(path)
            self._written = plan

    def _best(self, loop: StudyLoop) -> Plan:
        """The best plan, its cost predicted where that takes no time."""
        best = loop.best
        if best is not None:
            limit_s = max(0.1, min(RESULT_PREDICTION_S, self.clock.left_s))
            found = self.setting.plan(best.strategy, best.effective_batch_size, time_limit_s=limit_s)
            plan = found if isinstance(found, Plan) else loop.best_plan()
            if plan is not None:
                self._write(plan)
        if self._written is None:
            raise RuntimeError("a plan is written before anything else")
        return self._written

    def _result(
        self, loop: StudyLoop, final: FinalRun | None, skipped: str, *, interrupted: bool = False
    ) -> TuneResult:
        trials = tuple(loop.history.trials[number] for number in sorted(loop.history.trials))
        plan = self._written if interrupted and self._written is not None else self._best(loop)
        evaluated = [trial for trial in trials if trial.started]
        broken = bool(evaluated) and not any(e.outcome == "completed" for t in evaluated for e in t.evaluations)
        if broken and not interrupted:
            raise RunFailed(
                f"no trial came to a result: {loop.stopped_because}",
                problems=[f"trial {t.number} ({t.strategy.method}): {t.reason}" for t in evaluated if t.reason],
                fix=f"{self.outputs[0]} has the recommended default, untried",
            )
        best = loop.best
        return TuneResult(
            best=plan,
            best_trial=best.number if best is not None else None,
            best_reason=_reason(loop),
            metric_name=self.setting.metric.name,
            trials=trials,
            pareto=pareto_points(trials, self.setting.metric),
            never_started=(*self.unusable, *_never_started(loop)),
            ladder_rows=loop.history.ladder_rows,
            full_rows=self.setting.full_rows,
            stopped_because=loop.stopped_because,
            elapsed_s=self.clock.elapsed_s,
            study_dir=str(self.study_dir),
            study_name=self.storage.name,
            final=final,
            final_skipped=skipped,
            interrupted=interrupted,
            objective=self.setting.objective.name,
            leaderboard=leaderboard(trials),
            race=race_points(trials),
        )

    def _interrupted(self, result: TuneResult, resume_command: str | None) -> StudyInterrupted:
        failure = StudyInterrupted(
            f"tuning was interrupted; the study in {self.study_dir} keeps every finished trial, "
            f"and {self.outputs[0]} is the best plan so far ({result.best_reason})",
            fix=f"continue with: {resume_command}" if resume_command else "give the same command again with --resume",
        )
        failure.result = result
        return failure


def _reason(loop: StudyLoop) -> str:
    """Why the best plan is the best, one sentence."""
    best = loop.best
    if best is None:
        tried = [e for trial in loop.history.trials.values() for e in trial.evaluations if e.outcome == "completed"]
        if not tried:
            return "the recommended default, untried"
        rows = max(evaluation.train_rows for evaluation in tried)
        return f"the recommended default: onset not reached, no run on up to {rows:,} rows left chance level"
    rows = best.top.train_rows if best.top is not None else 0
    others = sum(trial.started for trial in loop.history.trials.values()) - 1
    objective, floor, metric = loop.setting.objective, loop.setting.budget.min_quality, loop.setting.metric
    if objective.needs_floor and floor is not None:
        count = len(reaching(loop.history.trials.values(), metric, floor))
        which = f"trial {best.number}, {objective.title} of {count} that reached {metric.title} {metric.show(floor)}"
        top = best.top
        if count and top is not None:
            cost = objective.in_words(top.projected_total_s or 0.0, top.device_peak_bytes or 0)
            return f"{which}: {cost} by projection from {rows:,} rows"
        return f"no trial reached {metric.title} {metric.show(floor)}; trial {best.number} is the best of {others + 1}"
    if best.origin == "recommended":
        return f"the recommended default; none of {others} other trials beats it by more than seeds differ"
    return f"trial {best.number}, the best of {others + 1} trials on {rows:,} rows"


def _never_started(loop: StudyLoop) -> list[NeverStarted]:
    refused = [
        NeverStarted(trial.number, trial.strategy.method, trial.reason, trial.params, trial.exceeded)
        for trial in loop.history.trials.values()
        if trial.verdict == "infeasible" and not trial.started and trial.strategy.method not in loop.agenda.skipped
    ]
    skipped = _skipped(loop.agenda)
    unopened = [NeverStarted(None, method, "there was no time to try it") for method in loop.agenda.unopened()]
    return [*skipped, *unopened, *refused]


def _skipped(agenda: Agenda) -> list[NeverStarted]:
    return [
        NeverStarted(None, method, reason, exceeded=agenda.exceeded.get(method, ()))
        for method, reason in agenda.skipped.items()
    ]


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does. Only the main thread may say so to Python."""

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
