"""Plans that were found: a recommendation, ranked, as a table and as JSON; and the trials of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from advisor.core.budget import FIGURES, BoundedFigure, Budget
from advisor.core.cost import CostEstimate
from advisor.core.metrics import LOSS
from advisor.core.objective import get_objective
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.serialization import to_dict
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.text import (
    format_execution,
    format_interval,
    format_quality,
    format_strategy,
    make_table,
    print_table,
    remark,
    say,
)

if TYPE_CHECKING:
    from advisor.search.study import TrialSummary, TuneResult


def format_budget(budget: Budget) -> str:
    """The budget in words: ``"within 8.00 GiB and 2 h 00 min"``."""
    limits = [(figure, getattr(budget, figure.name)) for figure in FIGURES]
    parts = [figure.limit_in_words(limit) for figure, limit in limits if limit is not None]
    return "within " + " and ".join(parts) if parts else "without a budget"


def print_recommendation(console: Console, recommendation: Recommendation, *, limit: int = 8) -> None:
    """Print the best plans first, then the rejected methods, then advice.

    Args:
        console: Where to print.
        recommendation: The planner's result.
        limit: How many ranked plans to list.
    """
    if recommendation.ranked:
        _print_ranked(console, recommendation, limit)
    else:
        budget = format_budget(recommendation.budget)
        console.print(f"[bold red]No plan fits {budget} on {recommendation.device_id}.[/bold red]")
    if recommendation.rejected:
        table = make_table("method", "reason", title="Outside the budget or not possible")
        for rejected in recommendation.rejected:
            table.add_row(f"[bold]{rejected.method}[/bold]", rejected.reason)
        print_table(console, table)
    evaluated, replays = recommendation.evaluated, recommendation.replays
    say(console, f"{evaluated:,} configurations evaluated, {replays:,} of them with a replay of the memory allocator")
    for advice in recommendation.advice:
        say(console, f"- {advice}")


def print_study(console: Console, result: TuneResult) -> None:
    """Print how the study ended, its trials, the learning-rate race, the Pareto front, and the answer."""
    started = [trial for trial in result.trials if trial.started]
    say(
        console,
        f"{len(started)} trials in {format_duration(result.elapsed_s)}; stopped because {result.stopped_because}",
    )
    if started:
        _print_leaderboard(console, result, started)
        _print_race(console, result)
    if result.pareto:
        title = "Pareto front of quality, memory and time"
        table = make_table("trial", "method", result.metric.title, "device peak", "final run", title=title)
        for point in result.pareto:
            memory = format_bytes(point.device_peak_bytes) if point.device_peak_bytes is not None else "–"
            total = format_duration(point.total_s) if point.total_s is not None else "–"
            table.add_row(str(point.trial), point.method, result.metric.show(point.metric), memory, total)
        print_table(console, table)
    for never in result.never_started:
        remark(console, f"not started: {never.method}: {never.reason}")
    best = result.best.strategy
    console.print(f"\n[bold green]Best: {best.method}[/bold green] {format_strategy(best)}")
    say(console, f"  {result.best_reason}")
    _print_final(console, result)


def _print_leaderboard(console: Console, result: TuneResult, started: Sequence[TrialSummary]) -> None:
    """The trials, those that came farthest and were best there first."""

    def standing(trial: TrialSummary) -> tuple[int, float, int]:
        top = trial.top
        return (-top.train_rows if top is not None else 0, (top.nll if top is not None else None) or 9e9, trial.number)

    titles = (">", "configuration", "why", "verdict", ">rows", result.metric.title, LOSS.title)
    table = make_table(*titles, title="Leaderboard, on rows held out from the training rows")
    for trial in sorted(started, key=standing):
        last = trial.top or trial.evaluations[-1]
        metric = result.metric.show(last.metric) if last.metric is not None else "–"
        loss = f"{last.nll:.4f}" if last.nll is not None else "–"
        configuration = f"{trial.strategy.method} {format_strategy(trial.strategy)}"
        verdict = "at chance" if last.at_chance else trial.verdict
        table.add_row(str(trial.number), configuration, trial.origin, verdict, str(last.train_rows), metric, loss)
    print_table(console, table, dispensable=(LOSS.title, "why"))


def _print_race(console: Console, result: TuneResult) -> None:
    """The recommended method at several learning rates, on the first rows that all of them ran on."""
    race = [trial for trial in result.trials if trial.origin in ("recommended", "race") and trial.evaluations]
    shared = {e.train_rows for e in race[0].evaluations} if race else set()
    for trial in race:
        shared &= {e.train_rows for e in trial.evaluations}
    if len(race) < 2 or not shared:
        return
    rows = max(shared)
    title = f"Learning-rate race of {race[0].strategy.method} on {rows:,} rows"
    table = make_table(">times the default", ">learning rate", result.metric.title, LOSS.title, title=title)
    for trial in sorted(race, key=lambda item: item.strategy.lr_rel):
        run = next(e for e in trial.evaluations if e.train_rows == rows)
        metric = result.metric.show(run.metric) if run.metric is not None else "–"
        loss = f"{run.nll:.4f}" if run.nll is not None else "–"
        table.add_row(f"{trial.strategy.lr_rel:.3g}", f"{trial.strategy.learning_rate:.2g}", metric, loss)
    console.print(table)


def _print_final(console: Console, result: TuneResult) -> None:
    """The study's answer: the final run on rows that no trial saw, predicted against measured."""
    if result.final is None:
        say(console, f"  not verified by a final run: {result.final_skipped}")
        return
    run, cost = result.final.measurement, result.final.plan.predicted
    if result.final.metric is not None:
        predicted = f" (predicted {format_quality(cost.quality)})" if cost is not None and cost.quality else ""
        shown = result.metric.show(result.final.metric)
        say(console, f"  final run: {result.metric.title} {shown} on held-out rows that no trial saw{predicted}")
    if cost is not None and cost.time is not None:
        took, expected = format_duration(run.total_s), format_duration(cost.time.total_s)
        say(console, f"  whole run {took} (predicted {expected})")
    if cost is not None and run.device_peak_bytes is not None:
        peak, expected = format_bytes(run.device_peak_bytes), format_bytes(cost.memory.device_bytes)
        say(console, f"  device peak {peak} (predicted {expected})")


def _print_ranked(console: Console, recommendation: Recommendation, limit: int) -> None:
    budget = format_budget(recommendation.budget)
    title = f"Plans {budget} on {recommendation.device_id} ({recommendation.considered:,} configurations considered)"
    limited = _limited_figures(recommendation.budget)
    front = get_objective(recommendation.objective).front
    extra = [f">{figure.title}" for figure in limited] + (["Pareto"] if front else [])
    table = make_table("", "method", "quality", ">memory", ">run time", *extra, "source", title=title, no_wrap=True)
    shown = list(enumerate(recommendation.ranked[:limit], start=1))
    for index, ranked in shown:
        *cells, source = _ranked_row(index, ranked)
        trade = ["yes" if ranked.pareto else "beaten"] if front else []
        table.add_row(*cells, *_limited_cells(ranked.plan.predicted, limited), *trade, source)
    print_table(console, table, dispensable=("source",))
    for index, ranked in shown:
        say(console, f"[bold]{index}[/bold] {ranked.plan.strategy.method}: {ranked.reason}")
    best = recommendation.ranked[0]
    method = best.plan.strategy.method
    console.print(f"\n[bold green]Recommended: {method}[/bold green] {format_strategy(best.plan.strategy)}")
    console.print(f"execution: {format_execution(best.plan.execution)}")
    if best.largest_ranks:
        parts = [f"{rank} on {targets}" for targets, rank in best.largest_ranks.items()]
        console.print(f"largest ranks that fit: {', '.join(parts)}")
    _print_intervals(console, best)


def _limited_figures(budget: Budget) -> list[BoundedFigure]:
    """Figures that have no column of their own, where the budget limits them."""
    return [figure for figure in FIGURES if figure.point is not None and getattr(budget, figure.name) is not None]


def _limited_cells(cost: CostEstimate | None, limited: Sequence[BoundedFigure]) -> list[str]:
    values = [figure.point(cost) if cost is not None and figure.point is not None else None for figure in limited]
    return [figure.show(value) if value is not None else "–" for figure, value in zip(limited, values, strict=True)]


def _ranked_row(index: int, ranked: RankedPlan) -> tuple[str, ...]:
    cost, method = ranked.plan.predicted, ranked.plan.strategy.method
    if cost is None:
        return (str(index), method, "–", "–", "–", "–")
    parts = {"memory": cost.memory, "time": cost.time, "quality": cost.quality}
    return (
        f"{index}{'=' if ranked.tied else ''}",
        method,
        format_quality(cost.quality),
        format_bytes(cost.memory.device_bytes),
        format_duration(cost.time.total_s) if cost.time is not None else "–",
        ", ".join(f"{name} {part.basis}" for name, part in parts.items() if part is not None),
    )


def _print_intervals(console: Console, ranked: RankedPlan) -> None:
    cost = ranked.plan.predicted
    if cost is None:
        return
    memory = format_interval(cost.memory.intervals.get("device_bytes"), format_bytes)
    lines = [f"device peak {format_bytes(cost.memory.device_bytes)} (90 %: {memory})"]
    if cost.time is not None:
        total = format_interval(cost.time.intervals.get("total_s"), format_duration)
        lines.append(f"whole run {format_duration(cost.time.total_s)} (90 %: {total})")
    for figure in _limited_figures(ranked.plan.budget):
        value, most = figure.point(cost) if figure.point is not None else None, figure.upper(cost, 0.95)
        if value is not None and most is not None:
            lines.append(f"{figure.title} {figure.show(value)} (at most {figure.show(most)})")
    if cost.quality is not None:
        lines.append(f"{cost.quality.metric.title} {format_quality(cost.quality)}: {cost.quality.reason}")
    for line in (*lines, *cost.notes):
        say(console, f"  {line}")


def recommendation_answer(recommendation: Recommendation, plan_path: Path | None) -> dict[str, Any]:
    """``recommend --json``: device, budget, ranked plans with their cost, losers with their reason, advice.

    ``plan_path`` is where the best plan was written; null when nothing fits or no file was asked for.
    """
    return {
        "device_id": recommendation.device_id,
        "objective": recommendation.objective,
        "budget": to_dict(recommendation.budget),
        "considered": recommendation.considered,
        "evaluated": recommendation.evaluated,
        "replays": recommendation.replays,
        "ranked": [_ranked_answer(rank, ranked) for rank, ranked in enumerate(recommendation.ranked, start=1)],
        "rejected": [
            {
                "method": rejected.method,
                "reason": rejected.reason,
                "smallest_plan": _plan_answer(rejected.smallest_plan) if rejected.smallest_plan is not None else None,
            }
            for rejected in recommendation.rejected
        ],
        "advice": list(recommendation.advice),
        **({"probe": to_dict(recommendation.probe)} if recommendation.probe is not None else {}),
        "plan_path": str(plan_path) if plan_path is not None and recommendation.best is not None else None,
    }


def _ranked_answer(rank: int, ranked: RankedPlan) -> dict[str, Any]:
    return {
        "rank": rank,
        "method": ranked.plan.strategy.method,
        "score": ranked.score,
        "tied": ranked.tied,
        "pareto": ranked.pareto,
        "reason": ranked.reason,
        "largest_ranks": dict(ranked.largest_ranks),
        **_plan_answer(ranked.plan),
    }


def _plan_answer(plan: Plan) -> dict[str, Any]:
    """The knobs of a plan and their cost; model and data are the same for all plans of an answer."""
    return {
        "strategy": to_dict(plan.strategy),
        "execution": to_dict(plan.execution),
        "cost": to_dict(plan.predicted),
    }
