"""Buying evidence: short real runs of the leading plans on nested prefixes of the training rows.

All runs share seed, data order and held-out items, so that what differs is the method and the number of rows. The
prefixes are a half and a quarter of the rows where the time budget allows it, smaller otherwise; every run goes
through as many epochs as the full one, because that is what its figure is carried over to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from advisor.core.errors import AdvisorError, InterruptedByUser
from advisor.core.metrics import LOSS
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.costmodel.quality.evidence import EvidenceRun, QualityEvidence
from advisor.strategies import get_strategy

USUAL_SHARE, LARGEST_SHARE = 1 / 4, 1 / 2
"""Of the training rows, for the larger prefix (the smaller one has half of it): usually, and when there is time."""

FEWEST_STEPS = 4
"""Optimizer steps below which a run shows nothing but its warm-up."""

MAX_EVAL_ROWS = 500
"""Held-out items of a short run: their sampling error (1.8 points at 80 % accuracy) is then no larger than that of
extrapolating."""

STARTUP_S = 3.0
"""Assumed for starting a process and loading a small model until the first run has shown it."""

BACKWARD_SHARE = 2 / 3
"""Of a training step is spent in the backward pass (forward : backward = 1 : 2), which evaluation does not run."""

MAX_CONTENDERS = 3

Measure = Callable[[Plan, float], Measurement]
"""Runs a plan for real within so many seconds, for example ``advisor.measurement.run.measure_run`` with a folder of its
own; what takes longer ends ``over_time``."""


@dataclass(frozen=True)
class _ShortRun:
    plan: Plan
    target_rows: int
    rows: int
    expected_s: float


def gather_evidence(
    plans: Sequence[Plan],
    *,
    budget_s: float,
    measure: Measure,
    on_progress: Callable[[Mapping[str, object]], None] | None = None,
    max_contenders: int = MAX_CONTENDERS,
) -> QualityEvidence:
    """Run the leading plans briefly and keep what came out, failures too.

    The best plan is bought two prefixes first; the next ones follow while the time lasts.

    Args:
        plans: Best first (``ranked`` of a recommendation), all of one task.
        budget_s: Wall-clock time that may be spent. A run that is not expected to end in time is not started, and none
            goes on beyond it.
        measure: Runs a plan and returns what was measured.
        on_progress: Takes ``{"kind": "evidence", "method": ..., "rows": ..., "done": i, "total": n}``.
        max_contenders: How many methods to look at; those that are not trained by gradients have no short runs.
    """
    trained = [plan for plan in plans if not get_strategy(plan.strategy.method).fits_frozen_features]
    contenders = trained[:max_contenders]
    if not contenders or budget_s <= 0:
        return QualityEvidence(budget_s=max(budget_s, 0.0))
    started, overhead_s = time.monotonic(), STARTUP_S
    runs: list[EvidenceRun] = []
    schedule = _schedule(contenders, budget_s)
    notes: list[str] = []
    loads: list[str] = []
    for index, short in enumerate(schedule):
        left_s = budget_s - (time.monotonic() - started)
        if runs and short.expected_s + overhead_s > left_s:
            notes.append(
                f"{short.plan.strategy.method} on {short.rows} rows was not run: {left_s:.0f} s of the budget were left"
            )
            continue
        if on_progress is not None:
            on_progress(
                {
                    "kind": "evidence",
                    "method": short.plan.strategy.method,
                    "rows": short.rows,
                    "done": index,
                    "total": len(schedule),
                }
            )
        run, overhead_s, load = _run(short, measure, max(left_s, 0.0))
        runs.append(run)
        loads += [load] if load else []
    if loads:
        notes.append(f"{len(loads)} of {len(runs)} short runs took longer than usual: {loads[-1]}")
    first = contenders[0]
    return QualityEvidence(
        tuple(runs), first.data_profile.fingerprint, first.data_profile.eval_rows,
        time.monotonic() - started, budget_s, first.seed, tuple(notes),
    )  # fmt: skip


def diverged(losses: Sequence[tuple[int, float]]) -> bool:
    """Whether the training loss is not finite, or ends clearly above where it started (last against first third)."""
    values = [loss for _, loss in losses]
    if any(not math.isfinite(value) for value in values):
        return True
    third = len(values) // 3
    if third < 1:
        return False
    start, end = sum(values[:third]) / third, sum(values[-third:]) / third
    spread = (max(values[:third]) - min(values[:third])) / 2
    return end > 1.1 * start + spread


def _schedule(plans: Sequence[Plan], budget_s: float) -> list[_ShortRun]:
    """Two prefixes of the best plan, then of the others.

    As many contenders as fit at the usual share; then a larger share if there is time for it (the less is
    extrapolated, the narrower the interval). A single contender that does not fit gets smaller prefixes, down to a few
    optimizer steps.
    """
    for count in range(len(plans), 0, -1):
        if _total_s(wanted := _prefixes(plans[:count], USUAL_SHARE)) <= budget_s:
            larger = _prefixes(plans[:count], LARGEST_SHARE)
            return larger if _total_s(larger) <= budget_s else wanted
    share = USUAL_SHARE
    fewest_rows = FEWEST_STEPS * plans[0].execution.effective_batch_size / plans[0].strategy.num_train_epochs
    while share / 2 * plans[0].data_profile.train_rows > fewest_rows:
        share /= 2**0.5
        if _total_s(wanted := _prefixes(plans[:1], share)) <= budget_s:
            return wanted
    return _prefixes(plans[:1], share)


def _prefixes(plans: Sequence[Plan], share: float) -> list[_ShortRun]:
    runs = [_short_run(plan, share * part) for plan in plans for part in (0.5, 1.0)]
    return list({(repr(run.plan.strategy), run.rows): run for run in runs}.values())


def _total_s(runs: Sequence[_ShortRun]) -> float:
    return sum(run.expected_s + STARTUP_S for run in runs)


def _short_run(plan: Plan, share: float) -> _ShortRun:
    profile = plan.data_profile
    fewest = math.ceil(FEWEST_STEPS * plan.execution.effective_batch_size / plan.strategy.num_train_epochs)
    rows = min(max(round(share * profile.train_rows), fewest), profile.train_rows)
    eval_rows = min(profile.eval_rows, MAX_EVAL_ROWS)
    short = replace(
        plan,
        data=replace(plan.data, max_train_rows=rows, max_eval_rows=eval_rows),
        data_profile=replace(profile, train_rows=rows, eval_rows=eval_rows),
        predicted=None,
    )
    return _ShortRun(short, profile.train_rows, rows, _expected_s(plan, rows, eval_rows))


def _expected_s(plan: Plan, rows: int, eval_rows: int) -> float:
    time_estimate = plan.predicted.time if plan.predicted is not None else None
    if time_estimate is None:
        return 0.0
    per_row = time_estimate.step_s / plan.execution.effective_batch_size
    epochs = plan.strategy.num_train_epochs
    evaluations = max(1, round(epochs))  # one after every epoch
    return per_row * (rows * epochs + evaluations * eval_rows * (1 - BACKWARD_SHARE))


def _run(short: _ShortRun, measure: Measure, limit_s: float) -> tuple[EvidenceRun, float, str]:
    """One run as evidence, its time beside training and evaluation, and what other programs did meanwhile."""
    started = time.monotonic()
    try:
        measured = measure(short.plan, limit_s)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        measured = Measurement("failed", str(failure.message))
    elapsed_s = time.monotonic() - started
    overhead_s = max(elapsed_s - measured.training_s - measured.evaluation_s, 0.0)
    return _evidence_run(short, measured, elapsed_s), overhead_s, measured.load


def _evidence_run(short: _ShortRun, measured: Measurement, elapsed_s: float) -> EvidenceRun:
    metric = short.plan.model.traits.metric
    return EvidenceRun(
        strategy=short.plan.strategy,
        train_rows=short.rows,
        target_train_rows=short.target_rows,
        eval_rows=short.plan.data_profile.eval_rows,
        eval_loss=LOSS.measured(measured.metrics),
        accuracy=metric.measured(measured.metrics) if metric.is_share else None,
        elapsed_s=elapsed_s,
        outcome=measured.outcome,
        reason=measured.reason,
        diverged=measured.outcome == "diverged" or diverged(measured.train_losses),
        train_losses=measured.train_losses,
        chance_accuracy=short.plan.data_profile.majority_share if metric.is_share else None,
    )
