"""What is known of every trial, and what follows from it: verdicts, who climbs, the winner and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from advisor.core.metrics import Metric
from advisor.search.study.records import Evaluation, ParetoPoint, TrialSummary, TrialVerdict
from advisor.search.study.successive_halving import climbers, metric_sd


def worst_constraints(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """The highest value of each measured constraint."""
    worst: dict[str, float] = {}
    for evaluation in evaluations:
        for name, value in evaluation.constraints.items():
            worst[name] = max(value, worst.get(name, value))
    return worst


def verdict_of(evaluations: tuple[Evaluation, ...], top_rows: int) -> tuple[TrialVerdict, str]:
    """What the newest evaluation decides; ``open`` when the trial may climb.

    Args:
        evaluations: Of one trial, at least one, in order of rising rows.
        top_rows: Rows of the highest rung.
    """
    newest = evaluations[-1]
    violated = sorted(name for name, value in worst_constraints(evaluations).items() if value > 0)
    if newest.outcome == "out_of_memory":
        return "out_of_memory", newest.reason or "the run ran out of memory"
    if newest.outcome == "over_time":
        return "over_time", newest.reason or "the run took longer than the time budget"
    if newest.outcome not in ("completed", "diverged"):
        return "failed", newest.reason or f"the run ended as {newest.outcome}"
    if violated:
        return "infeasible", f"measured above the budget: {', '.join(violated)}"
    if newest.nll is None:
        return "pruned", newest.reason
    if newest.train_rows >= top_rows:
        return "completed", "reached the highest fidelity"
    return "open", ""


@dataclass
class TrialHistory:
    """Every trial so far, by number.

    Attributes:
        ladder_rows: Training rows of the rungs, rising.
    """

    ladder_rows: tuple[int, ...]
    trials: dict[int, TrialSummary] = field(default_factory=dict)

    @property
    def open_trials(self) -> list[TrialSummary]:
        return [trial for trial in self.trials.values() if trial.verdict == "open"]

    @property
    def started_count(self) -> int:
        return sum(trial.started for trial in self.trials.values())

    @property
    def highest_rung(self) -> int:
        """Highest rung that a feasible evaluation reached; 0 before the first."""
        rows = [trial.top.train_rows for trial in self.trials.values() if trial.top is not None]
        return self.ladder_rows.index(max(rows)) if rows else 0

    def scores(self, rung: int) -> dict[int, float]:
        """Loss per item of every feasible evaluation on a rung, by trial."""
        rows = self.ladder_rows[rung]
        return {
            trial.number: evaluation.nll
            for trial in self.trials.values()
            for evaluation in trial.evaluations
            if evaluation.train_rows == rows and evaluation.feasible and evaluation.nll is not None
        }

    def sampled_scores(self) -> list[float]:
        """Scores on the lowest rung of the trials that the sampler chose."""
        return [score for number, score in self.scores(0).items() if self.trials[number].origin == "sampled"]

    def durations_s(self, rung: int) -> list[float]:
        """Measured wall clock of the runs on a rung."""
        rows = self.ladder_rows[rung]
        runs = [e for trial in self.trials.values() for e in trial.evaluations if e.train_rows == rows]
        return [run.total_s for run in runs if run.outcome == "completed" and run.total_s > 0]

    def next_rung(self, trial: TrialSummary) -> int:
        """The rung an open trial has to run on next."""
        return self.ladder_rows.index(trial.evaluations[-1].train_rows) + 1 if trial.evaluations else 0

    def beaten(self) -> list[TrialSummary]:
        """Open trials that are not among those that climb from their rung."""
        return [trial for trial in self.open_trials if trial.evaluations and not self._climbs(trial)]

    def climbing(self) -> list[TrialSummary]:
        """Open trials that go on: lowest rung first, so that a rung is judged when everybody was on it, then loss."""
        going = [trial for trial in self.open_trials if not trial.evaluations or self._climbs(trial)]
        return sorted(going, key=lambda trial: (self.next_rung(trial), self._loss(trial), trial.number))

    def _climbs(self, trial: TrialSummary) -> bool:
        rung = self.next_rung(trial) - 1
        return trial.number in climbers(self.scores(rung), rung)

    def _loss(self, trial: TrialSummary) -> float:
        return (trial.evaluations[-1].nll or 0.0) if trial.evaluations else 0.0


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
