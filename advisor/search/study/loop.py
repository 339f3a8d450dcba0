"""The ask-and-tell loop: defaults first, then what TPE samples; a trial climbs while it is among the best."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from advisor.core.events import Event, TrialEvent
from advisor.core.plan import Plan
from advisor.search.study.context import Infeasible, OnEvent, Runner, StudyContext
from advisor.search.study.durations import DurationEstimator
from advisor.search.study.evaluate import discard, run_evaluation
from advisor.search.study.files import TrialFiles
from advisor.search.study.optuna_adapter import OptunaAdapter
from advisor.search.study.records import Evaluation, TrialSummary, TrialVerdict
from advisor.search.study.space import Space
from advisor.search.study.successive_halving import worth_going_on
from advisor.search.study.trial_history import TrialHistory, verdict_of, worst_constraints

if TYPE_CHECKING:
    import optuna

MAX_ATTEMPTS = 2
"""A run during which the study was killed this often is taken for the culprit and told as failed."""

MAX_REJECTIONS = 24
"""Infeasible samples in a row after which the rest is taken not to fit; as many as TPE weighs for one sample."""

_OUT_OF_TIME = "the time budget is used"


@dataclass
class StudyLoop:
    """Live state of one call; everything that must survive it is in the journal and in the trial files.

    Attributes:
        ledger: Every trial so far, finished or open.
        stopped_because: Why ``run`` came back.
    """

    setting: StudyContext
    space: Space
    files: TrialFiles
    teller: OptunaAdapter
    ledger: TrialHistory
    pace: DurationEstimator
    runner: Runner
    max_trials: int | None = None
    on_event: OnEvent | None = None
    stopped_because: str = ""
    _live: dict[int, optuna.Trial] = field(default_factory=dict)
    _rejections: int = 0

    def run(self) -> None:
        """Work until a stop rule holds.

        Raises:
            InterruptedByUser: Ctrl-C; the trial in progress stays open.
        """
        self._recall()
        while not self.stopped_because:
            self._advance()
        self._emit({"kind": "study", "state": "stopped", "reason": self.stopped_because})

    def _recall(self) -> None:
        """What earlier calls left: finished trials are read, open ones continue where they stopped."""
        for number in self.teller.finished_numbers():
            known = self.files.trial(number)
            if known is not None:
                self.ledger.trials[number] = known
                for evaluation in known.evaluations:
                    self.pace.learn(known.strategy, evaluation)
        for trial in self.teller.orphans():
            self._pick_up(trial)

    def _advance(self) -> None:
        """One action: a waiting default, else a climb, else a new sample."""
        if self.teller.has_waiting() and not self._reason_to_stop(self.pace.default_needs_s()):
            self._pick_up(self.teller.ask())
            return
        for trial in self.ledger.beaten():
            self._close(trial, "pruned", f"others were better on {trial.evaluations[-1].train_rows} rows")
        climbing = self.ledger.climbing()
        affordable = [trial for trial in climbing if self._expected_s(trial) <= self.pace.clock.remaining_s]
        if affordable:
            self._evaluate(affordable[0].number)
        elif climbing:
            self.stopped_because = f"{_OUT_OF_TIME}: {len(climbing)} trials stay open for a resumed study"
        else:
            self.stopped_because = self._reason_to_stop(self.pace.sample_needs_s()) or self._reason_not_to_sample()
            if not self.stopped_because:
                self._pick_up(self.teller.ask())

    def _reason_to_stop(self, needed_s: float) -> str:
        """Why no further trial may start; empty if it may."""
        if self.max_trials is not None and self.ledger.started_count >= self.max_trials:
            return f"max_trials = {self.max_trials} trials were started"
        if needed_s > self.pace.clock.remaining_s:
            return f"{_OUT_OF_TIME}: another trial would take longer than what is left"
        if self._rejections >= MAX_REJECTIONS:
            return f"{self._rejections} sampled configurations in a row do not fit the budget"
        return ""

    def _reason_not_to_sample(self) -> str:
        scores, sampled = self.ledger.scores(0), self.ledger.sampled_scores()
        if scores and not worth_going_on(min(scores.values()), sampled, self.pace.affordable_trials()):
            return "the expected gain of the remaining budget is below the noise between seeds"
        return ""

    def _expected_s(self, trial: TrialSummary) -> float:
        return self.pace.expected_s(trial.strategy, self.ledger.next_rung(trial))

    def _pick_up(self, trial: optuna.Trial) -> None:
        """Take a trial from Optuna, new or left over, to where its records say it came."""
        params = self.space.suggest(trial)
        known = self.files.trial(trial.number)
        if known is not None and known.verdict != "open":
            self.ledger.trials[trial.number] = known
            self.teller.tell(trial, known)
            return
        origin: Any = trial.user_attrs.get("origin", "sampled")
        evaluations = known.evaluations if known is not None else ()
        summary = TrialSummary(trial.number, params, self.space.config(params), "open", "", origin, evaluations)
        self._live[trial.number] = trial
        if not self._fits(summary):
            return
        self.files.save_trial(summary)
        self.ledger.trials[trial.number] = summary
        for evaluation in evaluations:
            self.pace.learn(summary.strategy, evaluation)
            self.teller.report(trial, evaluation)
        if evaluations:
            self._settle(summary)
        else:
            self._evaluate(trial.number)

    def _fits(self, summary: TrialSummary) -> bool:
        """Whether the cost model lets a trial start; one that does not fit is told at once, without any process."""
        plan = self.setting.plan(summary.strategy)
        if isinstance(plan, Infeasible):
            self._rejections += 1
            unfit = dataclasses.replace(summary, constraints=plan.constraints)
            self._close(unfit, "infeasible", f"never started: {plan.reason}")
            return False
        self._rejections = 0
        return True

    def _evaluate(self, number: int) -> None:
        """Run one trial on its next rung and keep what came of it."""
        summary = self.ledger.trials[number]
        rows = self.ledger.ladder_rows[self.ledger.next_rung(summary)]
        plan = self.setting.plan(summary.strategy)
        if self.files.attempts(number, rows) >= MAX_ATTEMPTS or not isinstance(plan, Plan):
            self._close(summary, "failed", f"the study was killed {MAX_ATTEMPTS} times while this ran on {rows} rows")
            return
        self._emit_trial("started", summary, train_rows=rows)
        self.files.begin(number, rows)
        evaluation = self._run(number, plan, rows)
        if evaluation is None:
            self.stopped_because = f"{_OUT_OF_TIME}: the last run was stopped and stays open for a resumed study"
            return
        self.files.save_evaluation(number, evaluation)
        discard(self.files.run_dir(number, rows))
        summary = dataclasses.replace(summary, evaluations=(*summary.evaluations, evaluation))
        self.ledger.trials[number] = summary
        self.pace.learn(summary.strategy, evaluation)
        self.teller.report(self._live[number], evaluation)
        self._emit_trial("evaluated", summary, **_headline(evaluation))
        self._settle(summary)

    def _run(self, number: int, plan: Plan, rows: int) -> Evaluation | None:
        """One process; however it ends while we live, it does not count as having killed the study."""
        run_dir = self.files.run_dir(number, rows)
        limit_s = self.pace.clock.remaining_s
        try:
            return run_evaluation(
                self.setting,
                self.runner,
                plan,
                rows,
                run_dir,
                time_limit_s=limit_s,
                on_event=self._forward(number, rows),
            )
        finally:
            self.files.forgive(number, rows)

    def _settle(self, summary: TrialSummary) -> None:
        """Close a trial whose newest evaluation decides it; leave the others open to climb."""
        verdict, reason = verdict_of(summary.evaluations, self.ledger.ladder_rows[-1])
        if verdict != "open":
            worst = worst_constraints(summary.evaluations)
            self._close(dataclasses.replace(summary, constraints=worst), verdict, reason)

    def _close(self, summary: TrialSummary, verdict: TrialVerdict, reason: str) -> None:
        """Write the verdict, then tell Optuna: a kill in between loses nothing."""
        closed = dataclasses.replace(summary, verdict=verdict, reason=reason)
        self.files.save_trial(closed)
        self.ledger.trials[summary.number] = closed
        self.teller.tell(self._live.pop(summary.number), closed)
        self._emit_trial(verdict, closed, reason=reason)

    def _emit_trial(self, state: str, trial: TrialSummary, **details: Any) -> None:
        event = {"kind": "trial", "state": state, "trial": trial.number, "method": trial.strategy.method, **details}
        self._emit(cast(TrialEvent, event))

    def _emit(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def _forward(self, number: int, rows: int) -> OnEvent | None:
        """The run's own events, with the trial they belong to."""
        listener = self.on_event
        return (
            None
            if listener is None
            else lambda event: listener(cast(Event, {**event, "trial": number, "train_rows": rows}))
        )


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in ("train_rows", "outcome", "nll", "metric")}
