"""Plans that were found: a recommendation, ranked, as a table and as JSON; and the trials of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from advisor.core.budget import FIGURES, BoundedFigure, Budget
from advisor.core.cost import CostEstimate
from advisor.core.objective import get_objective
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.serialization import to_dict
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.text import (
    format_curve,
    format_execution,
    format_interval,
    format_quality,
    format_strategy,
    make_table,
    print_table,
    say,
)


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
        if cost.quality.curve:
            lines.append(f"{cost.quality.metric.title} by epochs (steps): {format_curve(cost.quality)}")
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
