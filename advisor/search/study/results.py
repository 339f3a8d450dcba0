"""From evaluations to a winner and a Pareto picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from advisor.core.metrics import Metric
from advisor.search.study.noise import metric_sd
from advisor.search.study.records import Evaluation, ParetoPoint, TrialSummary


def contenders(trials: Iterable[TrialSummary]) -> list[tuple[TrialSummary, Evaluation]]:
    """Trials that can win: feasible, and evaluated on as many rows as any feasible trial was."""
    reached = [(trial, top) for trial in trials if trial.verdict != "infeasible" and (top := trial.top) is not None]
    most = max((top.train_rows for _, top in reached), default=0)
    return [(trial, top) for trial, top in reached if top.train_rows == most]


def winner(trials: Iterable[TrialSummary], metric: Metric) -> TrialSummary | None:
    """The best trial at the highest fidelity; among those within seed noise of it, the one with the lowest loss.

    A held-out accuracy moves in steps of one item, the likelihood does not, so it decides between equals. The noise is
    known of metrics in points; of others only equals are.
    """
    field = contenders(trials)
    if not field:
        return None
    if not metric.is_relative:
        noise = metric_sd() if metric.in_points else 0.0
        scores = [metric.score(top.metric or 0.0) for _, top in field]
        field = [pair for pair, score in zip(field, scores, strict=True) if score >= max(scores) - noise]
    return min(field, key=lambda pair: (pair[1].nll, pair[0].number))[0]


def pareto_points(trials: Iterable[TrialSummary], metric: Metric) -> tuple[ParetoPoint, ...]:
    """The trials that no other beats in metric, device memory and projected time at once; best metric first."""
    points = [_point(trial, top) for trial, top in contenders(trials) if top.metric is not None]
    costs = [
        (-metric.score(point.metric), float(point.device_peak_bytes or 0), point.total_s or 0.0) for point in points
    ]
    front = [
        point for point, cost in zip(points, costs, strict=True) if not any(_dominates(other, cost) for other in costs)
    ]
    return tuple(sorted(front, key=lambda point: -metric.score(point.metric)))


def _point(trial: TrialSummary, top: Evaluation) -> ParetoPoint:
    return ParetoPoint(
        trial=trial.number,
        method=trial.strategy.method,
        metric=top.metric or 0.0,
        nll=top.nll or 0.0,
        device_peak_bytes=top.device_peak_bytes,
        total_s=top.projected_total_s,
    )


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """At least as good everywhere and better somewhere (all lower is better)."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )
