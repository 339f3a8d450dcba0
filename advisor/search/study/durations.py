"""The study's own time: what is left, how long runs take, and what the rest allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from advisor.core.plan import Plan
from advisor.core.strategy import StrategyConfig
from advisor.search.study.context import StudyContext
from advisor.search.study.records import Evaluation
from advisor.search.study.space import Space
from advisor.search.study.successive_halving import RunCost
from advisor.search.study.trial_history import TrialHistory

FINISHING_S = 1.0
"""Kept free at the end for the last records, the final plan and the tables; at most a fiftieth of the budget."""


@dataclass
class StudyClock:
    """Wall clock of one call, with predictions corrected by what the runs so far really took.

    Attributes:
        budget_s: What the call may take.
        now: Seconds that only go forward.
    """

    budget_s: float
    now: Callable[[], float] = time.monotonic
    started_at: float = field(init=False)
    _ratios: list[float] = field(default_factory=list)
    _rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_at = self.now()

    @property
    def elapsed_s(self) -> float:
        return self.now() - self.started_at

    @property
    def remaining_s(self) -> float:
        """What runs may still use."""
        return self.budget_s - self.elapsed_s - min(FINISHING_S, self.budget_s / 50)

    @property
    def has_measured(self) -> bool:
        """Whether any run was completed yet."""
        return bool(self._rates)

    def note(self, predicted_s: float | None, measured_s: float, train_rows: int) -> None:
        """Learn from a completed run."""
        if measured_s <= 0:
            return
        if predicted_s:
            self._ratios.append(measured_s / predicted_s)
        self._rates.append(measured_s / train_rows)

    def expect_s(self, predicted_s: float | None, train_rows: int) -> float:
        """Corrected duration of the next run: median ratio times prediction, else seconds per row, else unknown (0)."""
        if predicted_s is not None:
            return predicted_s * (statistics.median(self._ratios) if self._ratios else 1.0)
        return statistics.median(self._rates) * train_rows if self._rates else 0.0


def predicted_s(setting: StudyContext, strategy: StrategyConfig, train_rows: int) -> float | None:
    """Predicted wall clock of a trial's run; ``None`` when it cannot be predicted."""
    plan = setting.plan(strategy)
    if not isinstance(plan, Plan):
        return None
    predicted = setting.trial_plan(plan, train_rows).predicted
    return predicted.time.total_s if predicted is not None and predicted.time is not None else None


def run_cost(setting: StudyContext, strategy: StrategyConfig) -> RunCost | None:
    """Duration as a line in the training rows, through the predictions at a tenth and at all of them."""
    few = max(1, setting.full_rows // 10)
    short_s, long_s = predicted_s(setting, strategy, few), predicted_s(setting, strategy, setting.full_rows)
    if short_s is None or long_s is None or setting.full_rows <= few:
        return None
    per_row_s = max(0.0, (long_s - short_s) / (setting.full_rows - few))
    return RunCost(max(0.0, short_s - per_row_s * few), per_row_s)


@dataclass
class DurationEstimator:
    """Expected durations: predictions corrected by what was measured."""

    setting: StudyContext
    space: Space
    ledger: TrialHistory
    clock: StudyClock

    def learn(self, strategy: StrategyConfig, evaluation: Evaluation) -> None:
        """Take a finished evaluation into account."""
        if evaluation.outcome == "completed":
            predicted = predicted_s(self.setting, strategy, evaluation.train_rows)
            self.clock.note(predicted, evaluation.total_s, evaluation.train_rows)

    def expected_s(self, strategy: StrategyConfig, rung: int) -> float:
        """Expected wall clock of one configuration on a rung."""
        rows = self.ledger.ladder_rows[rung]
        return self.clock.expect_s(predicted_s(self.setting, strategy, rows), rows)

    def typical_s(self, rung: int) -> float:
        """Median duration on a rung: measured there, else expected of the methods' defaults."""
        measured = self.ledger.durations_s(rung)
        if measured:
            return statistics.median(measured)
        return statistics.median(self.expected_s(space.default, rung) for space in self.space.methods)

    def default_needs_s(self) -> float:
        """Time that must be left to start a default: its run, and as much of one climb as can still be afforded."""
        if not self.clock.has_measured:
            return 0.0  # a prediction that was never checked must not keep the first run from checking it
        climb_s = 0.0
        for rung in range(1, len(self.ledger.ladder_rows)):
            step_s = self.typical_s(rung)
            if climb_s + step_s > self.clock.remaining_s:
                break
            climb_s += step_s
        return self.typical_s(0) + climb_s

    def sample_needs_s(self) -> float:
        """Time that must be left to sample a trial: the way to the highest rung reached, below which it cannot win."""
        return sum(self.typical_s(rung) for rung in range(self.ledger.highest_rung + 1))

    def affordable_trials(self) -> int:
        """How many runs on the lowest rung the rest of the time allows."""
        duration_s = self.typical_s(0)
        return int(self.clock.remaining_s / duration_s) if duration_s > 0 else 1_000_000
