"""What is known of every trial, and what follows from it: verdicts, who climbs, the winner and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from advisor.core.metrics import Metric
from advisor.core.objective import DEFAULT_OBJECTIVE, Objective, pareto_front
from advisor.search.study.records import Evaluation, ParetoPoint, RacePoint, TrialSummary, TrialVerdict
from advisor.search.study.successive_halving import climbers, metric_sd, relative_loss_sd


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
    if newest.outcome == "diverged":
        return "pruned", newest.reason or "training diverged"
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
        return max(0, self._rungs_up_to(max(rows)) - 1) if rows else 0

    @property
    def base_rung(self) -> int:
        """Where new trials start: the first rung that no run showed to be too short to leave chance on."""
        for rung in range(len(self.ladder_rows) - 1):
            found = self._evaluations_on(self.ladder_rows[rung])
            if not found or any(not evaluation.at_chance for evaluation in found):
                return rung
        return len(self.ladder_rows) - 1

    @property
    def known_rows(self) -> set[int]:
        """Row counts that there are evaluations on."""
        return {evaluation.train_rows for trial in self.trials.values() for evaluation in trial.evaluations}

    def count_on(self, rows: int) -> int:
        """How many trials ran on so many rows."""
        return sum(any(run.train_rows == rows for run in trial.evaluations) for trial in self.trials.values())

    def scores(self, rows: int) -> dict[int, float]:
        """Loss per item of every feasible evaluation on so many rows, by trial."""
        return {
            trial.number: evaluation.nll
            for trial in self.trials.values()
            for evaluation in trial.evaluations
            if evaluation.train_rows == rows and evaluation.feasible and evaluation.nll is not None
        }

    def base_scores(self) -> dict[int, float]:
        """``scores`` on the rung that new trials start on."""
        return self.scores(self.ladder_rows[self.base_rung])

    def sampled_scores(self) -> list[float]:
        """Base scores of the trials that the sampler chose."""
        return [score for number, score in self.base_scores().items() if self.trials[number].origin == "sampled"]

    def durations_s(self, rung: int) -> list[float]:
        """Measured wall clock of the runs on a rung, of those in a pack what they take on their own."""
        runs = [e for trial in self.trials.values() for e in trial.evaluations]
        rows = self.ladder_rows[rung]
        return [
            run.alone_s for run in runs if run.train_rows == rows and run.outcome == "completed" and run.total_s > 0
        ]

    def next_rung(self, trial: TrialSummary) -> int:
        """The rung an open trial has to run on next."""
        reached = self._rungs_up_to(trial.evaluations[-1].train_rows) if trial.evaluations else 0
        return max(reached, self.base_rung)

    def next_rows(self, trial: TrialSummary) -> int:
        """Rows of the next run of an open trial."""
        return self.ladder_rows[min(self.next_rung(trial), len(self.ladder_rows) - 1)]

    def beaten(self) -> list[TrialSummary]:
        """Open trials that are not among those that climb from where they are."""
        return [trial for trial in self.open_trials if trial.evaluations and not self._climbs(trial)]

    def climbing(self) -> list[TrialSummary]:
        """Open trials that go on: lowest rung first, so that a rung is judged when everybody was on it, then loss."""
        going = [trial for trial in self.open_trials if not trial.evaluations or self._climbs(trial)]
        return sorted(going, key=lambda trial: (self.next_rung(trial), self._loss(trial), trial.number))

    def _climbs(self, trial: TrialSummary) -> bool:
        rows = trial.evaluations[-1].train_rows
        if all(evaluation.at_chance for evaluation in self._evaluations_on(rows)):
            return True
        return trial.number in climbers(self.scores(rows), max(0, self._rungs_up_to(rows) - 1))

    def _evaluations_on(self, rows: int) -> list[Evaluation]:
        runs = [e for trial in self.trials.values() for e in trial.evaluations]
        return [run for run in runs if run.train_rows == rows and run.feasible]

    def _rungs_up_to(self, rows: int) -> int:
        return sum(rung_rows <= rows for rung_rows in self.ladder_rows)

    def _loss(self, trial: TrialSummary) -> float:
        return (trial.evaluations[-1].nll or 0.0) if trial.evaluations else 0.0


def feasible_tops(trials: Iterable[TrialSummary]) -> list[tuple[TrialSummary, Evaluation]]:
    """Feasible trials with the evaluation on most rows that says anything."""
    return [(trial, top) for trial in trials if trial.verdict != "infeasible" and (top := trial.top) is not None]


def contenders(trials: Iterable[TrialSummary], *, beyond_chance: bool = True) -> list[tuple[TrialSummary, Evaluation]]:
    """Trials that can win: feasible, beyond chance, and evaluated on as many rows as any of these was."""
    reached = [(trial, top) for trial, top in feasible_tops(trials) if not (beyond_chance and top.at_chance)]
    most = max((top.train_rows for _, top in reached), default=0)
    return [(trial, top) for trial, top in reached if top.train_rows == most]


def best_quality(trials: Iterable[TrialSummary], metric: Metric) -> TrialSummary | None:
    """The best trial at the highest fidelity; among those within seed noise of it, the one with the lowest loss.

    A held-out accuracy moves in steps of one item, the likelihood does not, so it decides between equals. The noise is
    known of metrics in points; of others only equals are. The recommended default only gives way to a loss that seeds
    alone would not explain.
    """
    field = contenders(trials)
    if not field:
        return None
    if not metric.is_relative:
        noise = metric_sd() if metric.in_points else 0.0
        scores = [metric.score(top.metric or 0.0) for _, top in field]
        field = [pair for pair, score in zip(field, scores, strict=True) if score >= max(scores) - noise]
    best, top = min(field, key=lambda pair: (pair[1].nll, pair[0].number))
    near = (top.nll or 0.0) + relative_loss_sd() * abs(top.nll or 0.0)
    kept = [trial for trial, other in field if trial.origin == "recommended" and (other.nll or 0.0) <= near]
    return kept[0] if kept else best


def winner(
    trials: Iterable[TrialSummary],
    metric: Metric,
    objective: Objective = DEFAULT_OBJECTIVE,
    floor: float | None = None,
) -> TrialSummary | None:
    """The trial that an objective asks for: the best quality, or the least cost of a final run above a floor.

    A trial that reaches the floor on fewer rows counts, since more rows seldom make it worse; where none does, the best
    quality counts.
    """
    known = tuple(trials)
    if objective.cost is None or floor is None:
        return best_quality(known, metric)
    costs = {
        trial.number: objective.cost(top.projected_total_s or math.inf, float(top.device_peak_bytes or 0))
        for trial, top in reaching(known, metric, floor)
    }
    if not costs:
        return best_quality(known, metric)
    number = min(costs, key=lambda item: (costs[item], item))
    return next(trial for trial in known if trial.number == number)


def reaching(trials: Iterable[TrialSummary], metric: Metric, floor: float) -> list[tuple[TrialSummary, Evaluation]]:
    """Feasible trials beyond chance whose metric reaches a floor, with the evaluation that shows it."""
    return [
        (trial, top)
        for trial, top in feasible_tops(trials)
        if not top.at_chance and top.metric is not None and metric.score(top.metric) >= metric.score(floor)
    ]


def pareto_points(trials: Iterable[TrialSummary], metric: Metric) -> tuple[ParetoPoint, ...]:
    """The trials that no other beats in metric, device memory and projected time at once; best metric first."""
    known = tuple(trials)
    field = contenders(known) or contenders(known, beyond_chance=False)
    points = [_point(trial, top) for trial, top in field if top.metric is not None]
    costs = [
        (-metric.score(point.metric), float(point.device_peak_bytes or 0), point.total_s or 0.0) for point in points
    ]
    front = pareto_front(dict(enumerate(costs)))
    return tuple(sorted((points[index] for index in front), key=lambda point: -metric.score(point.metric)))


def _point(trial: TrialSummary, top: Evaluation) -> ParetoPoint:
    return ParetoPoint(
        trial=trial.number,
        method=trial.strategy.method,
        metric=top.metric or 0.0,
        nll=top.nll or 0.0,
        device_peak_bytes=top.device_peak_bytes,
        total_s=top.projected_total_s,
    )


def leaderboard(trials: Iterable[TrialSummary]) -> tuple[int, ...]:
    """Numbers of the started trials: those that came farthest and were best there first."""

    def standing(trial: TrialSummary) -> tuple[int, float, int]:
        top = trial.top
        loss = top.nll if top is not None and top.nll is not None else math.inf
        return (-top.train_rows if top is not None else 0, loss, trial.number)

    return tuple(trial.number for trial in sorted((t for t in trials if t.started), key=standing))


def race_points(trials: Iterable[TrialSummary]) -> tuple[RacePoint, ...]:
    """The recommended method at several learning rates, on the most rows that all of them ran on."""
    raced = [trial for trial in trials if trial.origin in ("recommended", "race") and trial.evaluations]
    shared = set.intersection(*({run.train_rows for run in trial.evaluations} for trial in raced)) if raced else set()
    if len(raced) < 2 or not shared:
        return ()
    rows = max(shared)
    return tuple(
        RacePoint(
            *(trial.number, trial.strategy.method, trial.strategy.lr_rel, trial.strategy.learning_rate, rows),
            *(run.metric, run.nll),
        )
        for trial in sorted(raced, key=lambda item: item.strategy.lr_rel)
        for run in trial.evaluations
        if run.train_rows == rows
    )
