"""A tuning result: finished trials, the Pareto front, and candidates that were not started."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.metrics import LOSS
from advisor.core.units import format_bytes, format_duration
from advisor.reporting.text import format_strategy
from advisor.search.study import TuneResult


def print_study(console: Console, result: TuneResult) -> None:
    """Print how the study ended, its trials, the Pareto front, and the best plan."""
    started = [trial for trial in result.trials if trial.started]
    console.print(
        f"{len(started)} trials in {format_duration(result.elapsed_s)}; stopped because {result.stopped_because}",
        highlight=False,
    )
    table = Table(title="Trials", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("", "configuration", "verdict", "rows", result.metric.title, LOSS.title):
        table.add_column(column, justify="right" if column in ("", "rows") else "left")
    for trial in started:
        last = trial.top or trial.evaluations[-1]
        metric = result.metric.show(last.metric) if last.metric is not None else "–"
        loss = f"{last.nll:.4f}" if last.nll is not None else "–"
        configuration = f"{trial.strategy.method} {format_strategy(trial.strategy)}"
        table.add_row(str(trial.number), configuration, trial.verdict, str(last.train_rows), metric, loss)
    console.print(table)
    _print_pareto(console, result)
    for never in result.never_started:
        console.print(f"[dim]not started: {never.method}: {never.reason}[/dim]", highlight=False, soft_wrap=True)
    best = result.best.strategy
    console.print(f"\n[bold green]Best: {best.method}[/bold green] {format_strategy(best)} (trial {result.best_trial})")


def _print_pareto(console: Console, result: TuneResult) -> None:
    table = Table(title="Pareto front of quality, memory and time", title_justify="left", box=None, pad_edge=False)
    for column in ("trial", "method", result.metric.title, "device peak", "final run"):
        table.add_column(column)
    for point in result.pareto:
        memory = format_bytes(point.device_peak_bytes) if point.device_peak_bytes is not None else "–"
        total = format_duration(point.total_s) if point.total_s is not None else "–"
        table.add_row(str(point.trial), point.method, result.metric.show(point.metric), memory, total)
    if result.pareto:
        console.print(table)
