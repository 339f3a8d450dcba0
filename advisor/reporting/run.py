"""A finished run: predicted and measured figures with a verdict on each, as tables and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from advisor.core.metrics import Metric
from advisor.core.run import RunRecord, Verification
from advisor.core.serialization import to_dict
from advisor.core.units import format_duration, format_energy
from advisor.reporting.benchmark import PREDICTED_AS, print_benchmark
from advisor.reporting.cost import PART_LABELS
from advisor.reporting.text import format_change, format_quantity, make_table, print_table, remark
from advisor.reporting.verification import QUALITY_QUANTITY

if TYPE_CHECKING:
    from advisor.experiments.operator_families import StepFamilies

_LABELS = {
    "time.latency_s": "latency of one row",
    "time.merged_latency_s": "latency of one row, merged",
    "saved_bytes": "saved weights",
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
    trained = f"[bold]{record.plan.strategy.method}[/bold] trained in {format_duration(measurement.total_s)}"
    if measurement.wall_s is not None:
        trained += f"; {format_duration(measurement.wall_s)} by the clock, with starting up and profiling"
    console.print(trained)
    if measurement.benchmark is not None:
        print_benchmark(console, measurement.benchmark, _predicted(record))
        console.print()
        _print_verification(console, record)
        return
    if metrics:
        console.print(f"held-out: {metrics}", highlight=False)
    if measurement.achieved_sparsity is not None:
        console.print(f"achieved sparsity {measurement.achieved_sparsity:.1%}", highlight=False)
    if measurement.energy_j is not None:
        console.print(f"energy {format_energy(measurement.energy_j)} ({measurement.energy_source})", highlight=False)
    _print_verification(console, record)


def _predicted(record: RunRecord) -> dict[str, float]:
    """Predicted figures by the name of the measured one."""
    found = {PREDICTED_AS[v.quantity]: v.predicted for v in record.verifications if v.quantity in PREDICTED_AS}
    promised = record.plan.predicted
    if promised is not None and promised.quality is not None and promised.quality.value is not None:
        found[promised.quality.metric.name] = promised.quality.value
    if promised is not None and promised.time is not None:
        found["samples_per_s"] = promised.time.samples_per_s
        found["tokens_per_s"] = promised.time.tokens_per_s
    return found


def _print_verification(console: Console, record: RunRecord) -> None:
    if not record.verifications:
        remark(console, "The plan contains no predictions, so there is nothing to verify.")
        return
    print_table(console, _verification_table(record), dispensable=("error", "90 % interval"))
    if record.measurement.parts_s:
        print_table(console, _parts_table(record), dispensable=("predicted",))
    if load := record.measurement.load:
        remark(console, f"busy machine: {load}, so that times and speeds say little", label="warning:")
    for note in record.plan.predicted.notes if record.plan.predicted is not None else ():
        remark(console, note)


def run_answer(record: RunRecord, profile: StepFamilies | None = None) -> dict[str, Any]:
    """``run --json``: outcome, metrics, verdicts, where the full record lies, and the profile that was asked for."""
    measurement = record.measurement
    return {
        "outcome": measurement.outcome,
        "method": record.plan.strategy.method,
        "metrics": to_dict(measurement.metrics),
        "verifications": to_dict(record.verifications),
        "predicted": to_dict(record.plan.predicted),
        "measured": {
            "allocated_peak_bytes": measurement.allocated_peak_bytes,
            "reserved_peak_bytes": measurement.reserved_peak_bytes,
            "device_peak_bytes": measurement.device_peak_bytes,
            "total_s": measurement.total_s,
            "wall_s": measurement.wall_s,
            "load": measurement.load,
            "trainable_parameters": measurement.trainable_parameters,
            "achieved_sparsity": measurement.achieved_sparsity,
        },
        "benchmark": to_dict(measurement.benchmark),
        "device_id": record.device_id,
        "output_dir": record.output_dir,
        "profile": to_dict(profile),
    }


def _verification_table(record: RunRecord) -> Table:
    columns = ("", ">predicted", ">90 % interval", ">measured", ">error", "verdict")
    table = make_table(*columns, title="Predicted vs measured", no_wrap=True)
    quality = record.plan.predicted.quality if record.plan.predicted is not None else None
    for verification in record.verifications:
        metric = quality.metric if quality is not None and verification.quantity == QUALITY_QUANTITY else None
        table.add_row(*_row(verification, metric, busy=bool(record.measurement.load)))
    return table


def _parts_table(record: RunRecord) -> Table:
    """Where the wall clock went; the error is a share of the whole run."""
    columns = ("", ">predicted", ">measured", ">error (share of run)")
    table = make_table(*columns, title="Where the time went", no_wrap=True)
    time = record.plan.predicted.time if record.plan.predicted is not None else None
    for name, measured in record.measurement.parts_s.items():
        predicted, error = "–", "–"
        if time is not None and name in time.parts:
            predicted = format_duration(time.parts[name])
            error = format_change((time.parts[name] - measured) / record.measurement.total_s)
        table.add_row(PART_LABELS.get(name, name), predicted, format_duration(measured), error)
    return table


def _row(verification: Verification, metric: Metric | None, *, busy: bool) -> tuple[str, ...]:
    """A verdict on a time that other programs disturbed is no verdict on the prediction."""

    def show(value: float | None) -> str:
        return "–" if value is None else format_quantity(verification.quantity, value, metric)

    style, error = _VERDICT_STYLES[verification.verdict], verification.relative_error
    verdict: str = verification.verdict
    if busy and verdict == "outside" and verification.quantity.startswith("time."):
        style, verdict = "yellow", "outside (busy machine)"
    exact = verification.low == verification.high
    return (
        metric.title if metric is not None else _LABELS.get(verification.quantity, verification.quantity),
        show(verification.predicted),
        "exact" if exact else f"{show(verification.low)} – {show(verification.high)}",
        show(verification.measured),
        "–" if error is None else metric.show_difference(error) if metric is not None else format_change(error),
        f"[{style}]{verdict}[/{style}]",
    )
