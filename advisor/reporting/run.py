"""A finished run: predicted and measured figures with a verdict on each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from advisor.core.metrics import Metric
from advisor.core.run import RunRecord, Verification
from advisor.core.units import format_duration, format_energy
from advisor.reporting.cost import PART_LABELS
from advisor.reporting.text import format_quantity
from advisor.reporting.verification import QUALITY_QUANTITY

_LABELS = {
    "memory.allocated_bytes": "allocated peak",
    "memory.reserved_bytes": "reserved peak",
    "memory.device_bytes": "device peak",
    "time.step_s": "one optimizer step",
    "time.total_s": "whole run",
    "time.inference.samples_per_s": "inference, samples per second",
    "time.energy_j": "energy",
    "trainable_parameters": "trainable parameters",
}
_VERDICT_STYLES = {"inside": "green", "outside": "bold red", "not measured": "dim"}


def print_run(console: Console, record: RunRecord) -> None:
    """Print the result of the run, then predicted and measured figures."""
    measurement = record.measurement
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in measurement.metrics.items())
    console.print(f"[bold]{record.plan.strategy.method}[/bold] trained in {format_duration(measurement.total_s)}")
    if metrics:
        console.print(f"held-out: {metrics}", highlight=False)
    if measurement.achieved_sparsity is not None:
        console.print(f"achieved sparsity {measurement.achieved_sparsity:.1%}", highlight=False)
    if measurement.energy_j is not None:
        console.print(f"energy {format_energy(measurement.energy_j)} ({measurement.energy_source})", highlight=False)
    if record.verifications:
        console.print(verification_table(record))
        if measurement.parts_s:
            console.print(parts_table(record))
        for note in record.plan.predicted.notes if record.plan.predicted is not None else ():
            console.print(f"[dim]{note}[/dim]", highlight=False, soft_wrap=True)
    else:
        console.print("[dim]The plan contains no predictions, so there is nothing to verify.[/dim]")


def verification_table(record: RunRecord) -> Table:
    """Predicted, interval, measured, error and verdict, one row per predicted figure."""
    table = Table(title="Predicted vs measured", title_justify="left", box=None, pad_edge=False)
    for column in ("", "predicted", "90 % interval", "measured", "error", "verdict"):
        table.add_column(column, justify="left" if column in ("", "verdict") else "right", no_wrap=True)
    quality = record.plan.predicted.quality if record.plan.predicted is not None else None
    for verification in record.verifications:
        metric = quality.metric if quality is not None and verification.quantity == QUALITY_QUANTITY else None
        table.add_row(*_row(verification, metric))
    return table


def parts_table(record: RunRecord) -> Table:
    """Where the wall clock went, predicted and measured; the error is a share of the whole run."""
    table = Table(title="Where the time went", title_justify="left", box=None, pad_edge=False)
    for column in ("", "predicted", "measured", "error (share of run)"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    time = record.plan.predicted.time if record.plan.predicted is not None else None
    promised = time.parts if time is not None else {}
    total_s = record.measurement.total_s
    for name, measured in record.measurement.parts_s.items():
        predicted = promised.get(name)
        shown = (
            ("–", "–")
            if predicted is None
            else (format_duration(predicted), f"{(predicted - measured) / total_s:+.1%}")
        )
        table.add_row(PART_LABELS.get(name, name), shown[0], format_duration(measured), shown[1].replace("%", " %"))
    return table


def _row(verification: Verification, metric: Metric | None) -> tuple[str, ...]:
    def show(value: float | None) -> str:
        return "–" if value is None else format_quantity(verification.quantity, value, metric)

    style = _VERDICT_STYLES[verification.verdict]
    exact = verification.low == verification.high
    return (
        metric.title if metric is not None else _LABELS.get(verification.quantity, verification.quantity),
        show(verification.predicted),
        "exact" if exact else f"{show(verification.low)} – {show(verification.high)}",
        show(verification.measured),
        _error_text(verification, metric),
        f"[{style}]{verification.verdict}[/{style}]",
    )


def _error_text(verification: Verification, metric: Metric | None) -> str:
    error = verification.relative_error
    if error is None:
        return "–"
    return metric.show_difference(error) if metric is not None else f"{error:+.1%}".replace("%", " %")
