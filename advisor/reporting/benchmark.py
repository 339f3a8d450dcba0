"""The benchmark core of a run, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console

from advisor.core.benchmark import Benchmark, MeasuredFigure, QualityReport
from advisor.core.metrics import METRICS
from advisor.core.units import format_bytes, format_count, format_duration, format_energy
from advisor.reporting.text import format_change, make_table, remark

MOST_CLASSES = 12
"""Tables of more classes are left to the record."""

_UNITS: dict[str, Callable[[float], str]] = {
    "slowed_share": lambda value: f"{value:.0%}",
    "_samples_per_s": lambda value: f"{value:.4g} samples/s",
    "_per_s": lambda value: f"{value:.4g}/s",
    "_s": format_duration,
    "_bytes": lambda value: f"{'-' if value < 0 else ''}{format_bytes(abs(value))}",
    "_j": format_energy,
    "_parameters": format_count,
    "_share": format_change,
    "_hz": lambda value: f"{value / 1e6:.0f} MHz",
    "_c": lambda value: f"{value:.0f} °C",
    "sparsity": lambda value: f"{value:.1%}",
    "increase": format_change,
}
"""How a figure is written, by the end of its name; the first that fits."""
_SHORT = {"_bytes": "", "_s": "", "_j": "", "_hz": "", "_c": ""}


PREDICTED_AS = {
    "memory.allocated_bytes": "allocated_peak_bytes",
    "memory.reserved_bytes": "reserved_peak_bytes",
    "memory.device_bytes": "process_peak_bytes",
    "time.step_s": "step_p50_s",
    "time.total_s": "total_s",
    "time.energy_j": "energy_j",
    "trainable_parameters": "trainable_parameters",
}
"""Which figure a predicted quantity stands beside."""


def print_benchmark(console: Console, core: Benchmark, predicted: Mapping[str, float] | None = None) -> None:
    """Print every figure beside its prediction, how it was measured, whether it is stable; then classes and warnings.

    Args:
        console: To print on.
        core: Of a run.
        predicted: Predicted figures, by name of the metric or figure.
    """
    table = make_table("", ">predicted", ">measured", ">interval", "how it was measured", title="Measured")
    predicted = predicted or {}

    def add(title: str, name: str, figure: MeasuredFigure, show: Callable[[float], str], how: str) -> None:
        expected = show(predicted[name]) if name in predicted else ""
        how = f"[yellow]unstable: {figure.unstable}[/yellow]; {how}" if figure.unstable else how
        table.add_row(title, expected, show(figure.value), _interval(figure, show), how)

    for name, figure in core.quality.figures.items() if core.quality is not None else ():
        metric = METRICS.get(name)
        add(metric.title, name, figure, metric.show, f"{figure.samples} held-out items")
    parts = {"": core.efficiency, "drift: ": core.drift, "general text: perplexity ": core.forgetting}
    for prefix, figures in parts.items():
        for name, figure in figures.items():
            add(f"{prefix}{_title(name)}", name, figure, shown_as(name), figure.how)
    console.print(table)
    if core.quality is not None:
        print_classes(console, core.quality)
        remark(
            console, "Intervals of qualities hold 95 % of bootstrap samples of the items, of times half of the repeats."
        )
    for warning in core.warnings:
        remark(console, warning, label="warning:")
    for note in core.notes:
        remark(console, f"note: {note}")


def print_classes(console: Console, quality: QualityReport) -> None:
    """Print the figures of every class, and which classes are taken for which."""
    if not quality.classes or len(quality.classes) > MOST_CLASSES:
        return
    names = [found.name for found in quality.classes]
    predicted = [f">as {name}" for name in names] if quality.confusion else []
    table = make_table("class", ">items", ">precision", ">recall", ">F1", *predicted, title="Classes")
    for index, found in enumerate(quality.classes):
        cells = [str(count) for count in quality.confusion[index]] if quality.confusion else []
        shares = (f"{value:.3f}" for value in (found.precision, found.recall, found.f1))
        table.add_row(found.name, str(found.items), *shares, *cells)
    console.print(table)


def shown_as(name: str) -> Callable[[float], str]:
    """How a figure of this name is written."""
    return next((show for end, show in _UNITS.items() if name.endswith(end)), lambda value: f"{value:.4g}")


def _title(name: str) -> str:
    """The name of a figure in words: without the unit that its value is written with."""
    bare = next((name.removesuffix(end) for end in _SHORT if name.endswith(end) and not name.endswith("_per_s")), name)
    return bare.replace("_per_s", " per second").replace("_", " ")


def _interval(figure: MeasuredFigure, show: Callable[[float], str]) -> str:
    return "" if figure.low is None or figure.high is None else f"{show(figure.low)} – {show(figure.high)}"
