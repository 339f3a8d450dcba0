"""A study at its end: leaderboard with the Pareto set, the learning-rate race, what was never started, the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from advisor.core.budget import FIGURES
from advisor.core.metrics import LOSS
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.text import format_quality, format_strategy, make_table, print_table, say

if TYPE_CHECKING:
    from advisor.search.study import ExceededLimit, NeverStarted, TuneResult

_GAP = 4
"""Columns between two tables that stand side by side."""


def print_study(console: Console, result: TuneResult) -> None:
    """Print how the study ended, its trials, the learning-rate race, what was not started, and the answer."""
    started = format_duration(result.elapsed_s)
    say(console, f"{len(result.leaderboard)} trials in {started}; stopped because {result.stopped_because}")
    if result.leaderboard:
        _side_by_side(console, _leaderboard(result), _race(result))
    if result.never_started:
        print_table(console, _never_started(result.never_started))
    best = result.best.strategy
    console.print(f"\n[bold green]Best: {best.method}[/bold green] {format_strategy(best)}")
    say(console, f"  {result.best_reason}")
    _print_final(console, result)


def _leaderboard(result: TuneResult) -> Table:
    """The trials, those that came farthest and were best there first; which of them no other beats."""
    titles = (">", "configuration", "why", "verdict", ">rows", result.metric.title, LOSS.title)
    costs = (">device peak", ">final run", "Pareto")
    table = make_table(*titles, *costs, title="Leaderboard, on rows held out from the training rows")
    trials = {trial.number: trial for trial in result.trials}
    front = {point.trial for point in result.pareto}
    for number in result.leaderboard:
        trial = trials[number]
        last = trial.top or trial.evaluations[-1]
        table.add_row(
            f"[bold]{number}[/bold]" if number == result.best_trial else str(number),
            f"{trial.strategy.method} {format_strategy(trial.strategy)}",
            trial.origin,
            "at chance" if last.at_chance else trial.verdict,
            str(last.train_rows),
            result.metric.show(last.metric) if last.metric is not None else "–",
            f"{last.nll:.4f}" if last.nll is not None else "–",
            format_bytes(last.device_peak_bytes) if last.device_peak_bytes is not None else "–",
            format_duration(last.projected_total_s) if last.projected_total_s is not None else "–",
            "yes" if number in front else "",
        )
    return table


def _race(result: TuneResult) -> Table | None:
    """The recommended method at several learning rates."""
    if not result.race:
        return None
    first = result.race[0]
    title = f"Learning-rate race of {first.method} on {first.train_rows:,} rows"
    table = make_table(">times the default", ">learning rate", result.metric.title, LOSS.title, title=title)
    for point in result.race:
        metric = result.metric.show(point.metric) if point.metric is not None else "–"
        loss = f"{point.nll:.4f}" if point.nll is not None else "–"
        table.add_row(f"{point.lr_rel:.3g}", f"{point.learning_rate:.2g}", metric, loss)
    return table


def _side_by_side(console: Console, left: Table, right: Table | None) -> None:
    """Two tables beside each other where the console is wide enough, else one below the other."""
    if right is not None:
        wide = [Measurement.get(console, console.options, table).maximum for table in (left, right)]
        if sum(wide) + _GAP <= console.width:
            grid = Table.grid(padding=(0, _GAP, 0, 0))
            grid.add_row(left, right)
            console.print(grid)
            return
    print_table(console, left, dispensable=("why", LOSS.title, "verdict"))
    if right is not None:
        console.print(right)


def _never_started(entries: Sequence[NeverStarted]) -> Table:
    """What was never started: by prediction beyond which limit, or why else. Alike ones are one row."""
    table = make_table("method", ">count", ">predicted", ">limit", "reason", title="Never started")
    rows: dict[tuple[str, ...], int] = {}
    for entry in entries:
        predicted, limits = _exceeded(entry.exceeded)
        key = (entry.method, predicted, limits, entry.reason.removeprefix("never started: "))
        rows[key] = rows.get(key, 0) + 1
    for (method, predicted, limits, reason), count in rows.items():
        table.add_row(method, str(count) if count > 1 else "", predicted, limits, escape(reason))
    return table


def _exceeded(limits: Sequence[ExceededLimit]) -> tuple[str, str]:
    """Predicted figures, and their limits."""
    figures = {figure.name: figure for figure in FIGURES}
    known = [(figures[item.name], item) for item in limits if item.name in figures]
    if not known:
        return "–", "–"
    return (
        ", ".join(figure.show(item.predicted) for figure, item in known),
        ", ".join(f"{figure.title} {figure.show(item.limit)}" for figure, item in known),
    )


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
