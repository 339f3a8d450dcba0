"""Where a study stands, for whoever watches."""

from __future__ import annotations

import math

from advisor.core.events import StudyEvent
from advisor.core.stats import NORMAL_95
from advisor.search.study.context import StudyContext
from advisor.search.study.durations import DurationEstimator, EnergyAccount
from advisor.search.study.records import TrialSummary
from advisor.search.study.successive_halving import expected_gain
from advisor.search.study.trial_history import TrialHistory


def status_event(
    setting: StudyContext,
    history: TrialHistory,
    pace: DurationEstimator,
    energy: EnergyAccount,
    best: TrialSummary | None,
) -> StudyEvent:
    """The best so far, the rungs, what is left of time and energy, and what going on may gain."""
    clock, top = pace.clock, best.top if best is not None else None
    low, high = _interval(setting, top.metric if top is not None else None)
    scores, sampled = history.base_scores(), history.sampled_scores()
    trials = pace.affordable_trials()
    gain = expected_gain(min(scores.values()), sampled, trials) if scores and len(sampled) > 1 else None
    return {
        "kind": "study",
        "state": "status",
        "reason": "",
        "best_trial": best.number if best is not None else None,
        "best_method": best.strategy.method if best is not None else None,
        "best_lr_rel": best.strategy.lr_rel if best is not None else None,
        "metric_name": setting.metric.name,
        "metric": top.metric if top is not None else None,
        "low": low,
        "high": high,
        "train_rows": top.train_rows if top is not None else None,
        "ladder_rows": list(history.ladder_rows),
        "rung_trials": [history.count_on(rows) for rows in history.ladder_rows],
        "objective": setting.objective.name,
        "remaining_s": max(0.0, clock.remaining_s),
        "reserved_s": clock.reserve_s,
        "budget_s": clock.budget_s,
        "expected_gain": gain,
        "energy_used_j": energy.used_j or None,
        "energy_budget_j": energy.limit_j,
    }


def _interval(setting: StudyContext, metric: float | None) -> tuple[float | None, float | None]:
    """90 % interval of a share on the study's held-out rows (normal approximation); unknown of other metrics."""
    if metric is None or not setting.metric.is_share:
        return None, None
    reach = NORMAL_95 * math.sqrt(max(0.0, metric * (1 - metric)) / setting.eval_rows)
    return max(0.0, metric - reach), min(1.0, metric + reach)
