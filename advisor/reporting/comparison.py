"""A comparison of runs and an evaluation on other data, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from advisor.core.benchmark import ModelEvaluation
from advisor.core.comparison import ErrorGroup, RunComparison
from advisor.core.metrics import LOSS, METRICS
from advisor.core.units import format_duration
from advisor.reporting.benchmark import print_classes
from advisor.reporting.text import make_table, remark

SIGNIFICANT = 0.05


def print_evaluation(console: Console, found: ModelEvaluation) -> None:
    """Print the figures of a model on other data."""
    table = make_table("", ">measured", ">95 % interval", "", title=f"{found.method}, {found.quality.items} items")
    loss = found.metrics.get(LOSS.name)
    if loss is not None:
        table.add_row(LOSS.title, LOSS.show(loss), "", "")
    for name, figure in found.quality.figures.items():
        metric = METRICS.get(name)
        interval = "" if figure.low is None or figure.high is None else _range(metric.show, figure.low, figure.high)
        unstable = f"[yellow]unstable: {figure.unstable}[/yellow]" if figure.unstable else ""
        table.add_row(metric.title, metric.show(figure.value), interval, unstable)
    console.print(table)
    print_classes(console, found.quality)
    console.print(
        f"{found.samples_per_s:.4g} items per second in {format_duration(found.evaluation_s)}", highlight=False
    )
    for note in (*found.quality.notes, *found.notes):
        remark(console, f"note: {note}")
    remark(console, f"predictions by item are in {found.output_dir}")


def print_comparison(console: Console, found: RunComparison) -> None:
    """Print every part of a comparison that there is; runs are called by their numbers after the first table."""
    metric = METRICS.get(found.runs[0].metric)
    table = make_table("", "run", "method", ">seed", f">{metric.title}", ">95 % interval", ">errors",
                       ">over-confidence (quartiles)", title=f"{found.items} held-out items")  # fmt: skip
    for number, run in enumerate(found.runs, start=1):
        interval = "" if run.low is None or run.high is None else _range(metric.show, run.low, run.high)
        confidence = " / ".join(f"{value:.2f}" for value in run.overconfidence[1:4])
        errors = "" if run.errors is None else str(run.errors)
        cells = (run.method, str(run.seed), metric.show(run.value), interval, errors, confidence)
        table.add_row(str(number), escape(run.name), *cells)
    console.print(table)
    _print_pairs(console, found)
    numbers = [f">{number}" for number in range(1, len(found.runs) + 1)]
    _print_groups(console, "Errors by class", found.classes, numbers)
    _print_shares(console, found, numbers)
    _print_groups(console, "Errors by text length", found.lengths, numbers)
    for number, run in enumerate(found.runs, start=1):
        if words := found.words.get(run.name):
            said = ", ".join(f"{word.word} ({word.errors} of {word.items}, {word.ratio:.1f}x)" for word in words)
            console.print(f"words over-represented in the errors of {number}: {said}", highlight=False)
    if found.hardest:
        table = make_table("label", ">wrong", ">p(true)", "predicted", "text", title="Hardest items")
        for item in found.hardest:
            said = ", ".join(item.predicted)
            probability = f"{item.true_probability:.3f}"
            table.add_row(escape(item.label), str(item.wrong), probability, escape(said), escape(item.text))
        console.print(table)
    _print_seeds(console, found)
    for note in found.notes:
        remark(console, f"note: {note}")


def _print_pairs(console: Console, found: RunComparison) -> None:
    metric, numbers = METRICS.get(found.runs[0].metric), {run.name: n for n, run in enumerate(found.runs, start=1)}
    table = make_table("", ">difference", ">95 % interval", ">both wrong (by chance)", ">only one wrong", ">kappa",
                       ">McNemar p", "", title="Pairs: the first less the second, over the same items")  # fmt: skip
    for pair in found.pairs:
        interval = "" if pair.low is None or pair.high is None else _range(metric.show_difference, pair.low, pair.high)
        both = "" if pair.both_wrong is None else f"{pair.both_wrong} ({pair.expected_both_wrong:.1f})"
        alone = "" if pair.only_first_wrong is None else f"{pair.only_first_wrong} / {pair.only_second_wrong}"
        kappa = "" if pair.kappa is None else f"{pair.kappa:.2f}"
        p = "" if pair.mcnemar_p is None else f"{pair.mcnemar_p:.3g}"
        differs = pair.low is not None and pair.high is not None and not pair.low <= 0 <= pair.high
        if pair.mcnemar_p is not None:
            differs = pair.mcnemar_p < SIGNIFICANT
        verdict = "differ" if differs else "no difference shown"
        name = f"{numbers[pair.first]} – {numbers[pair.second]}"
        table.add_row(name, metric.show_difference(pair.difference), interval, both, alone, kappa, p, verdict)
    console.print(table)


def _print_groups(console: Console, title: str, groups: Sequence[ErrorGroup], numbers: Sequence[str]) -> None:
    if not groups:
        return
    table = make_table("", ">items", *numbers, title=title)
    for group in groups:
        shares = (f"{errors} ({errors / max(group.items, 1):.1%})" for errors in group.errors)
        table.add_row(escape(group.name), str(group.items), *shares)
    console.print(table)


def _print_shares(console: Console, found: RunComparison, numbers: Sequence[str]) -> None:
    if not found.classes:
        return
    table = make_table("", *numbers, title="Of errors: true / predicted")
    for group in found.classes:
        cells = (
            f"{r.true_shares.get(group.name, 0):.0%} / {r.predicted_shares.get(group.name, 0):.0%}" for r in found.runs
        )
        table.add_row(escape(group.name), *cells)
    console.print(table)


def _print_seeds(console: Console, found: RunComparison) -> None:
    metric = METRICS.get(found.runs[0].metric)
    for group in found.seeds:
        values = ", ".join(metric.show(value) for value in group.values)
        mean = metric.show(group.mean)
        console.print(
            f"over {len(group.values)} seeds, {group.method}: {mean} ± {group.sd:.2g} sd ({values})", highlight=False
        )
    for pair in found.seed_differences:
        show = metric.show_difference
        interval = (
            "" if pair.low is None or pair.high is None else f", 95 % interval {_range(show, pair.low, pair.high)}"
        )
        line = f"over {len(pair.seeds)} seeds, {pair.first} less {pair.second}: {show(pair.mean)}{interval}"
        console.print(line, highlight=False)


def _range(show: Callable[[float], str], low: float, high: float) -> str:
    return f"{show(low)} – {show(high)}"
