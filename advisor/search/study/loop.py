"""The ask-and-tell loop: what the agenda names is tried; a trial climbs while it is among the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from advisor.core.errors import InterruptedByUser
from advisor.core.events import Event, OnMemberEvent, TrialEvent
from advisor.core.plan import Plan
from advisor.search.study.agenda import FIRST_PREDICTION_SHARE, Agenda
from advisor.search.study.context import Infeasible, OnEvent, Runner, StudyContext
from advisor.search.study.durations import FIRST_RUN_S, DurationEstimator
from advisor.search.study.evaluate import PackResult, finite, run_evaluation, run_pack, train
from advisor.search.study.gathering import MAX_ATTEMPTS, PackGathering
from advisor.search.study.packing import TrialPacking
from advisor.search.study.records import Evaluation, FinalRun, Origin, TrialSummary, TrialVerdict
from advisor.search.study.space import Space
from advisor.search.study.status import status_event
from advisor.search.study.stop_rules import OUT_OF_TIME, StopRules
from advisor.search.study.storage import StudyStorage, discard
from advisor.search.study.trial_history import TrialHistory, verdict_of, winner, worst_constraints

if TYPE_CHECKING:
    import optuna

LONGER_RUNG = 3
"""By how much the top rung is lengthened when nothing on it left chance level."""

_STOPPED_RUN = f"{OUT_OF_TIME}: the last run was stopped and stays open for a resumed study"


@dataclass
class StudyLoop:
    """Live state of one call; everything that must survive it is in the storage.

    Attributes:
        history: Every trial so far, finished or open.
        on_best: Is given the best plan whenever it changes.
        rules: Say when no further trial may start.
        final_runner: Trains the final run and measures the benchmark core; ``runner`` where there is none.
        stopped_because: Why ``run`` came back.
    """

    setting: StudyContext
    space: Space
    storage: StudyStorage
    history: TrialHistory
    agenda: Agenda
    pace: DurationEstimator
    runner: Runner
    on_best: Callable[[Plan], None]
    rules: StopRules
    on_event: OnEvent | None = None
    packing: TrialPacking | None = None
    final_runner: Runner | None = None
    stopped_because: str = ""
    gathering: PackGathering | None = None
    _live: dict[int, optuna.Trial] = field(default_factory=dict)
    _postponed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.packing is not None:
            self.gathering = PackGathering(
                *(self.packing, self.history, self.storage, self.agenda, self.pace, self.rules),
                at_hand=lambda: [trial.number for trial in self._climbing() if trial.number in self._live],
                ready=self._ready,
                take=lambda: self._enter(self.storage.ask()),
            )

    def run(self) -> None:
        """Work until a stop rule holds.

        Raises:
            InterruptedByUser: Ctrl-C; the trial in progress stays open.
        """
        self._emit_status()
        for number in [self._enter(trial) for trial in self.storage.orphans()]:
            self._go_on(number)
        while not self.stopped_because:
            self._advance()
        self._emit({"kind": "study", "state": "stopped", "reason": self.stopped_because})

    # --- the best so far ------------------------------------------------------------------------------------------

    @property
    def best(self) -> TrialSummary | None:
        """The trial that would win now; ``None`` when no trial says anything yet."""
        setting = self.setting
        return winner(self.history.trials.values(), setting.metric, setting.objective, setting.budget.min_quality)

    def best_plan(self) -> Plan | None:
        """Its plan, with predicted costs where they are known by now."""
        best = self.best
        if best is None:
            return None
        if self.setting.is_predicted(best.strategy, best.effective_batch_size):
            plan = self.setting.plan(best.strategy, best.effective_batch_size)
            if isinstance(plan, Plan):
                return plan
        return self.setting.unpredicted_plan(best.strategy, best.execution)

    def publish(self) -> None:
        """Hand the best plan on, and keep the time of its final run free."""
        plan = self.best_plan()
        if plan is not None:
            self.on_best(plan)
            if self.pace.clock.has_measured:
                self.pace.reserve(plan)

    # --- one action after another ---------------------------------------------------------------------------------

    def _advance(self) -> None:
        """One action: a run that must show where chance ends, a trial taken for a pack that has not run, a waiting
        point, an opening, a climb, or a sample.
        """
        for trial in self.history.beaten():
            self._close(trial, "pruned", f"others were better on {trial.evaluations[-1].train_rows} rows")
        climbing = self._climbing()
        affordable = [trial for trial in climbing if self.pace.next_s(trial) <= self.pace.clock.remaining_s]
        probing = [trial for trial in affordable if self._shows_where_chance_ends(trial)]
        taken = [trial for trial in affordable if not trial.started and trial.number in self._live]
        if probing or taken:
            self._evaluate((probing or taken)[0].number)
        elif self.storage.waiting or self._open():
            self._go_on(self._enter(self.storage.ask()))
        elif affordable:
            self._evaluate(affordable[0].number)
        elif climbing:
            self.stopped_because = f"{OUT_OF_TIME}: {len(climbing)} trials stay open for a resumed study"
        else:
            self.stopped_because = (
                self.rules.reason_to_stop(self.rules.sample_needs_s) or self.rules.reason_not_to_sample()
            )
            if not self.stopped_because:
                self.storage.enqueue(self.agenda.sample(self.best, self.setting.seed), "sampled")

    def _climbing(self) -> list[TrialSummary]:
        return [trial for trial in self.history.climbing() if trial.number not in self._postponed]

    def _shows_where_chance_ends(self, trial: TrialSummary) -> bool:
        return bool(trial.evaluations) and all(evaluation.at_chance for evaluation in trial.evaluations)

    def _open(self) -> bool:
        """Queue the next opening, if there is one and the time for it."""
        needed_s = self.pace.opening_needs_s()
        if self.rules.reason_to_stop(needed_s):
            return False
        found = self.agenda.opening(self.history.trials, needed_s)
        if found is not None:
            self.storage.enqueue(*found)
        return found is not None

    def _enter(self, trial: optuna.Trial) -> int:
        """Take a trial from Optuna, new or left over, to where its records say it came."""
        params = self.space.suggest(trial)
        known = self.history.trials.get(trial.number)
        self._live[trial.number] = trial
        if known is not None and known.verdict != "open":
            self.storage.tell(self._live.pop(trial.number), known)
            return trial.number
        if known is None:
            origin = cast(Origin, trial.user_attrs.get("origin", "sampled"))
            batch = self.space.batch_size(params, self.setting.effective_batch_size)
            known = TrialSummary(
                trial.number, params, self.space.config(params), "open", "", origin, effective_batch_size=batch
            )
        self.history.trials[trial.number] = known
        for evaluation in known.evaluations:
            self.storage.report(trial, evaluation)
        return trial.number

    def _go_on(self, number: int) -> None:
        """Run a trial that was taken and has not run, unless it was closed meanwhile."""
        if number not in self._live:
            return
        if self.history.trials[number].evaluations:
            self._settle(self.history.trials[number])
        else:
            self._evaluate(number)

    def _plan_of(self, trial: TrialSummary) -> Plan | None:
        """A trial's plan; one that does not fit is closed at once, and one that there was no time for is postponed."""
        method = trial.strategy.method
        skipped = self.agenda.skipped.get(method)
        left_s = self.pace.clock.remaining_s
        share_s = self.pace.clock.budget_s * FIRST_PREDICTION_SHARE
        limit_s = left_s if self.setting.is_bounded else min(left_s, share_s)
        exceeded = self.agenda.exceeded.get(method, ())
        plan: Plan | Infeasible | None = Infeasible(skipped, {"fits": 1.0}, exceeded) if skipped else None
        known = self.setting.is_predicted(trial.strategy, trial.effective_batch_size)
        if plan is None and (known or (left_s > 0 and not self.agenda.gave_up_on(method))):
            plan = self.setting.plan(trial.strategy, trial.effective_batch_size, time_limit_s=max(0.1, limit_s))
        if isinstance(plan, Infeasible):
            self.rules.rejections += 1
            unfit = dataclasses.replace(trial, constraints=plan.constraints, exceeded=plan.exceeded)
            self._close(unfit, "infeasible", f"never started: {plan.reason}")
            return None
        if plan is None and trial.origin in ("recommended", "race") and not self.setting.is_bounded:
            plan = self.setting.unpredicted_plan(trial.strategy)  # evidence first: nothing says that it might not fit
        if plan is None:
            self._postponed.add(trial.number)
            return None
        self.rules.rejections = 0
        return plan

    def _evaluate(self, number: int, *, alone: bool = False) -> None:
        """Run one trial on its next rung, with others where that may be, and keep what came of it."""
        ready = self._ready(number)
        if ready is None:
            return
        plan, rows = ready
        pack = [(number, plan)] if alone or self.gathering is None else self.gathering.pack(number, plan, rows)
        for member, its_plan in pack:
            self._begin(member, its_plan, rows, [other for other, _ in pack])
        if self.packing is not None and len(pack) > 1:
            self._run_together(self.packing, pack, rows)
            return
        evaluation = self._run(number, plan, rows)
        if evaluation is None:
            self.stopped_because = _STOPPED_RUN
            return
        self._keep(number, evaluation)

    def _ready(self, number: int) -> tuple[Plan, int] | None:
        """Plan and rows of a trial's next run; ``None`` when it is closed or postponed instead."""
        summary = self.history.trials[number]
        plan = self._plan_of(summary)
        if plan is None:
            return None
        if self.pace.clock.has_measured and self.pace.next_s(summary) > self.pace.clock.remaining_s:
            self._postponed.add(number)
            return None
        rows = self.history.next_rows(summary)
        if self.storage.attempts(number, rows) >= MAX_ATTEMPTS:
            self._close(summary, "failed", f"the study was killed {MAX_ATTEMPTS} times while this ran on {rows} rows")
            return None
        return plan, rows

    def _begin(self, number: int, plan: Plan, rows: int, pack: list[int]) -> None:
        """Note and tell that a run begins, with those that it is trained with."""
        summary = self.history.trials[number]
        if summary.execution != plan.execution:
            summary = dataclasses.replace(summary, execution=plan.execution)
            self.history.trials[number] = summary
            self.storage.save_trial(summary)
        self._emit_trial("started", summary, train_rows=rows, **({"pack": pack} if len(pack) > 1 else {}))
        self.storage.begin(number, rows)

    def _keep(self, number: int, evaluation: Evaluation) -> None:
        """Store what came of a run, then see what follows from it."""
        self.storage.save_evaluation(number, evaluation)
        discard(self.storage.run_dir(number, evaluation.train_rows))
        summary = self.history.trials[number]
        summary = dataclasses.replace(summary, evaluations=(*summary.evaluations, evaluation))
        self.history.trials[number] = summary
        self.pace.learn(summary, evaluation)
        self.rules.energy.note(evaluation.measurement)
        self.publish()
        self.storage.report(self._live[number], evaluation)
        self._emit_trial("evaluated", summary, **_headline(evaluation))
        self._settle(summary)
        self._emit_status()

    def _run(self, number: int, plan: Plan, rows: int) -> Evaluation | None:
        """One process; however it ends while we live, it does not count as having killed the study."""
        evaluation = None
        try:
            evaluation = run_evaluation(
                self.setting,
                self.runner,
                plan,
                rows,
                self.storage.run_dir(number, rows),
                time_limit_s=max(0.1, self.pace.clock.remaining_s),
                on_event=self._forward(number, rows),
            )
            return evaluation
        finally:
            if evaluation is None:
                self.storage.forgive(number, rows)

    # --- packs ----------------------------------------------------------------------------------------------------

    def _run_together(self, packing: TrialPacking, pack: list[tuple[int, Plan]], rows: int) -> None:
        """Train a pack; every member is kept as if it had run alone, and one that says nothing runs alone."""
        numbers = [number for number, _ in pack]
        result: PackResult | None = None
        try:
            result = run_pack(
                self.setting,
                packing.trains,
                [plan for _, plan in pack],
                rows,
                [self.storage.run_dir(number, rows) for number in numbers],
                time_limit_s=max(0.1, self.pace.clock.remaining_s),
                on_event=self._forward_member(numbers, rows),
            )
        finally:
            known = result.evaluations if result is not None else (None,) * len(pack)
            left = [number for number, evaluation in zip(numbers, known, strict=True) if evaluation is None]
            for number in left:
                self.storage.forgive(number, rows)
        for number, evaluation in zip(numbers, result.evaluations, strict=True):
            if evaluation is not None:
                self._keep(number, evaluation)
        if result.interrupted:
            raise InterruptedByUser("the pack was interrupted")
        if result.out_of_time:
            self.stopped_because = _STOPPED_RUN
        if result.problem:
            packing.failed(len(pack), len(left), result.problem)
            for number in left:
                if not self.stopped_because:
                    self._evaluate(number, alone=True)

    def _settle(self, summary: TrialSummary) -> None:
        """Close a trial whose newest evaluation decides it; leave the others open to climb."""
        newest, top_rows = summary.evaluations[-1], self.history.ladder_rows[-1]
        if newest.at_chance and top_rows <= newest.train_rows < self.setting.full_rows and self.best is None:
            longer = min(self.setting.full_rows, LONGER_RUNG * newest.train_rows)
            self.history.ladder_rows = (*self.history.ladder_rows, longer)
        verdict, reason = verdict_of(summary.evaluations, self.history.ladder_rows[-1])
        if verdict != "open":
            worst = worst_constraints(summary.evaluations)
            self._close(dataclasses.replace(summary, constraints=worst), verdict, reason)

    def _close(self, summary: TrialSummary, verdict: TrialVerdict, reason: str) -> None:
        """Store the verdict, then tell Optuna: a kill in between loses nothing."""
        closed = dataclasses.replace(summary, verdict=verdict, reason=reason)
        self.storage.save_trial(closed)
        self.history.trials[summary.number] = closed
        self.storage.tell(self._live.pop(summary.number), closed)
        self._emit_trial(verdict, closed, reason=reason)

    # --- the verified final run -----------------------------------------------------------------------------------

    def final_run(self, plan: Plan) -> FinalRun | str:
        """Train the best plan on all rows and judge it on rows that no trial saw; or why not.

        Raises:
            InterruptedByUser: Ctrl-C; its checkpoint stays.
        """
        known = self.storage.final
        if known is not None and known.plan == plan:
            return known
        expected_s, left_s = self.pace.final_s(plan), self.pace.clock.left_s
        if expected_s is None or expected_s > left_s or left_s < FIRST_RUN_S:
            return f"it would take longer than the {max(0.0, left_s):.0f} s that are left"
        if self.rules.energy.short_of(expected_s):
            return f"it would take more than what is left of the energy budget of {self.rules.energy.in_words}"
        self._emit({"kind": "phase", "name": "the verified final run"})
        folder = self.storage.final_dir
        if known is not None:
            discard(folder)
        measuring_s = self.pace.measuring_s(expected_s)
        runner, limit_s = self.runner, left_s
        if self.final_runner is not None and expected_s + measuring_s <= left_s:
            runner, limit_s = self.final_runner, left_s - measuring_s
        measurement = finite(train(runner, plan, folder, limit_s, self.on_event))
        if measurement.outcome == "interrupted":
            raise KeyboardInterrupt
        if measurement.outcome != "completed":
            return f"it ended as {measurement.outcome.replace('_', ' ')}: {measurement.reason}"
        final = FinalRun(plan, self.setting.metric.measured(measurement.metrics), measurement)
        self.storage.save_final(final)
        return final

    # --- events ---------------------------------------------------------------------------------------------------

    def _emit_status(self) -> None:
        """Where the study stands, for whoever watches."""
        self._emit(status_event(self.setting, self.history, self.pace, self.rules.energy, self.best))

    def _emit_trial(self, state: str, trial: TrialSummary, **details: Any) -> None:
        event = {"kind": "trial", "state": state, "trial": trial.number, "method": trial.strategy.method, **details}
        self._emit(cast(TrialEvent, event))

    def _emit(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def _forward_member(self, numbers: list[int], rows: int) -> OnMemberEvent | None:
        """The same for a pack: its events name a position among the members."""
        listeners = [self._forward(number, rows) for number in numbers]

        def tell(position: int, event: Event) -> None:
            if (listener := listeners[position]) is not None:
                listener(event)

        return tell if self.on_event is not None else None

    def _forward(self, number: int, rows: int) -> OnEvent | None:
        """The run's own events, with the trial they belong to."""
        listener = self.on_event
        return (
            None
            if listener is None
            else lambda event: listener(cast(Event, {**event, "trial": number, "train_rows": rows}))
        )


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in ("train_rows", "outcome", "nll", "metric", "at_chance")}
