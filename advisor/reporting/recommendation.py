"""A recommendation as a ranked table, with the reasons why other methods were rejected."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.budget import Budget
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.text import format_execution, format_interval, format_quality, format_strategy


def format_budget(budget: Budget) -> str:
    """The budget in words: ``"within 8.00 GiB and 2 h 00 min"``."""
    parts = []
    if budget.memory_bytes is not None:
        parts.append(format_bytes(budget.memory_bytes))
    if budget.time_s is not None:
        parts.append(format_duration(budget.time_s))
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
        table = Table(title="Outside the budget or not possible", title_justify="left", box=None, pad_edge=False)
        table.add_column("method", style="bold", no_wrap=True)
        table.add_column("reason")
        for rejected in recommendation.rejected:
            table.add_row(rejected.method, rejected.reason)
        console.print(table)
    for advice in recommendation.advice:
        console.print(f"- {advice}", highlight=False, soft_wrap=True)


def _print_ranked(console: Console, recommendation: Recommendation, limit: int) -> None:
    budget = format_budget(recommendation.budget)
    title = f"Plans {budget} on {recommendation.device_id} ({recommendation.considered:,} configurations considered)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("", "method", "quality", "memory", "run time", "source"):
        table.add_column(column, justify="right" if column in ("memory", "run time") else "left", no_wrap=True)
    for index, ranked in enumerate(recommendation.ranked[:limit], start=1):
        table.add_row(*_ranked_row(index, ranked))
    console.print(table)
    for index, ranked in enumerate(recommendation.ranked[:limit], start=1):
        console.print(
            f"[bold]{index}[/bold] {ranked.plan.strategy.method}: {ranked.reason}", highlight=False, soft_wrap=True
        )
    best = recommendation.ranked[0].plan
    console.print(f"\n[bold green]Recommended: {best.strategy.method}[/bold green] {format_strategy(best.strategy)}")
    console.print(f"execution: {format_execution(best.execution)}")
    _print_largest_ranks(console, recommendation.ranked[0])
    _print_best_intervals(console, recommendation.ranked[0])


def _print_largest_ranks(console: Console, ranked: RankedPlan) -> None:
    if ranked.largest_ranks:
        parts = [f"{rank} on {targets}" for targets, rank in ranked.largest_ranks.items()]
        console.print(f"largest ranks that fit: {', '.join(parts)}")


def _ranked_row(index: int, ranked: RankedPlan) -> tuple[str, ...]:
    cost = ranked.plan.predicted
    if cost is None:
        return (str(index), ranked.plan.strategy.method, "–", "–", "–", "–")
    basis = f"memory {cost.memory.basis}"
    if cost.time is not None:
        basis += f", time {cost.time.basis}"
    if cost.quality is not None:
        basis += f", quality {cost.quality.basis}"
    return (
        f"{index}{'=' if ranked.tied else ''}",
        ranked.plan.strategy.method,
        format_quality(cost.quality),
        format_bytes(cost.memory.device_bytes),
        format_duration(cost.time.total_s) if cost.time is not None else "–",
        basis,
    )


def _print_best_intervals(console: Console, ranked: RankedPlan) -> None:
    cost = ranked.plan.predicted
    if cost is None:
        return
    memory = format_interval(cost.memory.intervals.get("device_bytes"), format_bytes)
    lines = [f"device peak {format_bytes(cost.memory.device_bytes)} (90 %: {memory})"]
    if cost.time is not None:
        total = format_interval(cost.time.intervals.get("total_s"), format_duration)
        lines.append(f"whole run {format_duration(cost.time.total_s)} (90 %: {total})")
    if cost.quality is not None:
        lines.append(f"{cost.quality.metric.title} {format_quality(cost.quality)}: {cost.quality.reason}")
    lines += cost.notes
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
