"""A speed comparison as a table: samples per second, ratios with their spread, held-out quality with its noise."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from rich.console import Console

from advisor.core.metrics import get_metric
from advisor.core.units import counted
from advisor.reporting.text import format_execution, format_strategy, make_table, say

if TYPE_CHECKING:
    from advisor.experiments.speed.compare import Contrast, SpeedComparison


def print_speed(console: Console, comparison: SpeedComparison) -> None:
    """Print one method's arms, then what the plan gains over each recipe and at what quality."""
    rounds = len(comparison.of("plan"))
    rows = comparison.runs[0].rows
    title = f"{comparison.method}: {rows:,} rows, {counted(rounds, 'round')}, arms alternating"
    metrics = [f">{get_metric(metric).title} ± sd" for metric in comparison.metrics]
    table = make_table("arm", ">samples/s (lowest – highest)", *metrics, "description", title=title)
    table.add_row(*_row("plan", comparison), format_execution(comparison.plan.execution))
    for recipe in comparison.recipes:
        table.add_row(*_row(recipe.name, comparison), recipe.description)
    console.print(table)
    shared = format_strategy(comparison.plan.strategy)
    console.print(f"  samples/s of the training loop, without evaluation and checkpoints; all arms: {shared}")
    for contrast in comparison.contrasts:
        say(console, f"  {_sentence(contrast)}")


def _row(name: str, comparison: SpeedComparison) -> tuple[str, ...]:
    runs = comparison.of(name)
    rates = [run.samples_per_s for run in runs]
    cells = [name, f"{statistics.median(rates):.1f} ({min(rates):.1f} – {max(rates):.1f})"]
    for metric in comparison.metrics:
        values = [run.metrics[metric] for run in runs]
        show = get_metric(metric).show
        cells.append(
            show(statistics.fmean(values)) + (f" ± {show(statistics.stdev(values))}" if len(values) > 1 else "")
        )
    return tuple(cells)


def _sentence(contrast: Contrast) -> str:
    text = f"plan / {contrast.recipe}: {contrast.ratio:.2f}x the samples/s"
    text += f" ({contrast.lowest:.2f} – {contrast.highest:.2f})"
    for metric, (difference, interval) in contrast.differences.items():
        verdict = "equal within noise" if contrast.equal_quality(metric) else "different"
        shown = f"90 %: {interval.low:+.3f} – {interval.high:+.3f}" if math.isfinite(interval.high) else "one round"
        text += f"; {get_metric(metric).title} {difference:+.3f} ({shown}), {verdict}"
    return text
