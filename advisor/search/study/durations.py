"""The study's own time: what is left, how long runs take, and what the rest allows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from advisor.core.benchmark import BenchmarkSettings
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.units import format_energy
from advisor.search.study.context import StudyContext
from advisor.search.study.records import Evaluation, TrialSummary
from advisor.search.study.successive_halving import RunCost
from advisor.search.study.trial_history import TrialHistory

FINISHING_S = 1.0
"""Kept free at the end for the last records, the final plan and the tables; at most a fiftieth of the budget."""


OVERRUN_SHARE = 0.1
OVERRUN_S = 10.0
"""What a call may take beyond its budget: the step that was begun, and saving. The larger of the two counts."""

FIRST_RUN_S = 5.0
"""With less time than this left no first run is begun: a model is not even loaded in it."""

FINAL_SHARE = 0.5
"""Largest share of the budget that is reserved for the final run; one that takes more is left to ``advisor run``."""

FINAL_MARGIN = 1.2
"""By how much the reserve exceeds the expected duration of the final run and of its benchmark core."""

QUALITY_S = 2.0
"""The benchmark core without inference, about: bootstrap intervals and predictions by item."""


@dataclass
class StudyClock:
    """Wall clock of one call, with predictions corrected by what the runs so far really took.

    Attributes:
        budget_s: What the call may take.
        now: Seconds that only go forward.
        started_at: When the call began, on the same clock; by default now.
        reserve_s: Kept free for the final run.
    """

    budget_s: float
    now: Callable[[], float] = time.monotonic
    started_at: float = math.nan
    reserve_s: float = 0.0
    _ratios: list[float] = field(default_factory=list)
    _rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if math.isnan(self.started_at):
            self.started_at = self.now()

    @property
    def elapsed_s(self) -> float:
        return self.now() - self.started_at

    @property
    def left_s(self) -> float:
        """What is left of the budget, the final run included."""
        return self.budget_s - self.elapsed_s - min(FINISHING_S, self.budget_s / 50)

    @property
    def remaining_s(self) -> float:
        """What trials may still use."""
        return self.left_s - self.reserve_s

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


def grace_s(budget_s: float) -> float:
    """How long a run that was told to stop may take to end its step and save, before it is killed."""
    return 0.6 * max(OVERRUN_S, OVERRUN_SHARE * budget_s)


def predicted_s(setting: StudyContext, trial: TrialSummary, train_rows: int) -> float | None:
    """Predicted wall clock of a trial's run; ``None`` when it was not predicted, or cannot be."""
    if not setting.is_predicted(trial.strategy, trial.effective_batch_size):
        return None
    plan = setting.plan(trial.strategy, trial.effective_batch_size)
    if not isinstance(plan, Plan):
        return None
    predicted = setting.trial_plan(plan, train_rows).predicted
    return predicted.time.total_s if predicted is not None and predicted.time is not None else None


def run_cost(setting: StudyContext, plan: Plan | None, factor: float = 1.0) -> RunCost | None:
    """Duration as a line in the training rows, through the predictions at a tenth and at all of them."""
    few = max(1, setting.full_rows // 10)
    if plan is None or setting.full_rows <= few:
        return None
    ends = [setting.trial_plan(plan, rows).predicted for rows in (few, setting.full_rows)]
    times = [cost.time.total_s * factor for cost in ends if cost is not None and cost.time is not None]
    if len(times) < 2:
        return None
    per_row_s = max(0.0, (times[1] - times[0]) / (setting.full_rows - few))
    return RunCost(max(0.0, times[0] - per_row_s * few), per_row_s)


@dataclass
class DurationEstimator:
    """Expected durations: predictions corrected by what was measured."""

    setting: StudyContext
    history: TrialHistory
    clock: StudyClock

    def learn(self, trial: TrialSummary, evaluation: Evaluation) -> None:
        """Take a finished evaluation into account."""
        if (
            evaluation.outcome == "completed"
            and not self.setting.strategies[trial.strategy.method].fits_frozen_features
        ):
            predicted = predicted_s(self.setting, trial, evaluation.train_rows)
            self.clock.note(predicted, evaluation.alone_s, evaluation.train_rows)

    def expected_s(self, trial: TrialSummary, rung: int) -> float:
        """Expected wall clock of one configuration on a rung; 0 when nothing is known."""
        rows = self.history.ladder_rows[rung]
        return self.clock.expect_s(predicted_s(self.setting, trial, rows), rows)

    def next_s(self, trial: TrialSummary) -> float:
        """Expected wall clock of the next run of an open trial."""
        return self.expected_s(trial, self.history.ladder_rows.index(self.history.next_rows(trial)))

    def typical_s(self, rung: int) -> float:
        """Median duration on a rung: measured there, else expected of the trials so far."""
        measured = self.history.durations_s(rung)
        if measured:
            return statistics.median(measured)
        expected = [self.expected_s(trial, rung) for trial in self.history.trials.values() if trial.started]
        return statistics.median(expected) if expected else 0.0

    def opening_needs_s(self) -> float:
        """Time that must be left to start an opening trial: its run, and as much of one climb as can be afforded."""
        if not self.clock.has_measured:
            return FIRST_RUN_S  # a prediction that was never checked must not keep the first run from checking it
        base, climb_s = self.history.base_rung, 0.0
        for rung in range(base + 1, len(self.history.ladder_rows)):
            step_s = self.typical_s(rung)
            if climb_s + step_s > self.clock.remaining_s:
                break
            climb_s += step_s
        return self.typical_s(base) + climb_s

    def sample_needs_s(self) -> float:
        """Time that must be left to sample a trial: the way to the highest rung reached, below which it cannot win."""
        rungs = range(self.history.base_rung, self.history.highest_rung + 1)
        return sum(self.typical_s(rung) for rung in rungs)

    def affordable_trials(self) -> int:
        """How many runs on the lowest rung the rest of the time allows."""
        duration_s = self.typical_s(self.history.base_rung)
        return max(0, int(self.clock.remaining_s / duration_s)) if duration_s > 0 else 1_000_000

    def final_s(self, plan: Plan) -> float | None:
        """Expected duration of a plan's final run on all rows; ``None`` when it is not known."""
        predicted = plan.predicted.time.total_s if plan.predicted is not None and plan.predicted.time else None
        expected_s = self.clock.expect_s(predicted, plan.data_profile.train_rows)
        return expected_s or None

    def measuring_s(self, expected_s: float) -> float:
        """Of the benchmark core behind a run of this length."""
        return BenchmarkSettings().inference_limit_s(expected_s) + QUALITY_S

    def reserve(self, plan: Plan) -> None:
        """Keep the time of the plan's final run free, where it takes a bearable share of the budget."""
        expected_s = self.final_s(plan)
        wanted_s = math.inf if expected_s is None else FINAL_MARGIN * (expected_s + self.measuring_s(expected_s))
        self.clock.reserve_s = wanted_s if wanted_s <= FINAL_SHARE * self.clock.budget_s else 0.0


@dataclass
class EnergyAccount:
    """Joules that the runs of one call took, beside what they may take.

    Attributes:
        limit_j: ``None`` leaves them open.
        used_j: By finished runs, as the device's own meter says.
        measured_s: How long these runs took.
    """

    limit_j: float | None = None
    used_j: float = 0.0
    measured_s: float = 0.0

    def note(self, measurement: Measurement) -> None:
        """Take a finished run into account, of a pack its share."""
        if measurement.energy_j is not None:
            self.used_j += measurement.energy_j / measurement.members
            self.measured_s += measurement.total_s / measurement.members

    def short_of(self, seconds: float) -> bool:
        """Whether a run of so many seconds, at the mean power so far, would take more than what is left."""
        if self.limit_j is None:
            return False
        watts = self.used_j / self.measured_s if self.measured_s > 0 else 0.0
        return self.used_j >= self.limit_j or self.used_j + watts * seconds > self.limit_j

    @property
    def in_words(self) -> str:
        """The limit and what was used: ``"20 Wh (18.2 Wh used)"``."""
        return f"{format_energy(self.limit_j or 0.0)} ({format_energy(self.used_j)} used)"
