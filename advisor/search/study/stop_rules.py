"""When no further trial of a study may start."""

from __future__ import annotations

from dataclasses import dataclass, field

from advisor.search.study.context import StudyContext
from advisor.search.study.durations import FIRST_RUN_S, DurationEstimator, EnergyAccount
from advisor.search.study.successive_halving import worth_going_on
from advisor.search.study.trial_history import TrialHistory

MAX_REJECTIONS = 48
"""Infeasible samples in a row after which the rest is taken not to fit."""

OUT_OF_TIME = "the time budget is used"


@dataclass
class StopRules:
    """The limits of one call, and what is left of them.

    Attributes:
        max_trials: Started trials, over the study's whole life.
        energy: Of this call's runs.
        rejections: Infeasible trials in a row.
    """

    setting: StudyContext
    history: TrialHistory
    pace: DurationEstimator
    max_trials: int | None = None
    energy: EnergyAccount = field(default_factory=EnergyAccount)
    rejections: int = 0

    @property
    def sample_needs_s(self) -> float:
        """Time that must be left to sample a trial."""
        return self.pace.sample_needs_s() if self.history.started_count else FIRST_RUN_S

    def reason_to_stop(self, needed_s: float, waiting: int = 0) -> str:
        """Why no further trial may start; empty if it may.

        Args:
            needed_s: What it takes.
            waiting: Trials that are not started yet, but will be.
        """
        if self.max_trials is not None and self.history.started_count + waiting >= self.max_trials:
            return f"max_trials = {self.max_trials} trials were started"
        if needed_s > self.pace.clock.remaining_s:
            return f"{OUT_OF_TIME}: another trial would take longer than what is left"
        if self.energy.short_of(needed_s):
            return (
                f"the energy budget of {self.energy.in_words} is used: another trial would take more than what is left"
            )
        if self.rejections >= MAX_REJECTIONS:
            return f"{self.rejections} sampled configurations in a row do not fit the budget"
        return ""

    def reason_not_to_sample(self) -> str:
        """Why sampling is not worth it; empty if it is."""
        if self.setting.objective.needs_floor:
            return ""  # a cheaper trial need not have a lower loss
        scores, sampled = self.history.base_scores(), self.history.sampled_scores()
        if scores and not worth_going_on(min(scores.values()), sampled, self.pace.affordable_trials()):
            return "the expected gain of the remaining budget is below the noise between seeds"
        return ""
