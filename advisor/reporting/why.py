"""A plan as it is, and where each of its predicted numbers comes from: read from the file, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from advisor.core.budget import FIGURES
from advisor.core.cost import CostEstimate, Interval, MemoryEstimate, QualityEstimate, TimeEstimate
from advisor.core.plan import Plan
from advisor.core.serialization import to_dict
from advisor.core.units import format_bytes, format_duration, format_energy
from advisor.reporting.cost import PART_LABELS, print_cost
from advisor.reporting.text import (
    format_execution,
    format_interval,
    format_rate,
    format_share,
    format_strategy,
    make_table,
    print_table,
    say,
)


@dataclass(frozen=True)
class NumberOrigin:
    """One number of a plan and where it comes from.

    Attributes:
        section: ``"memory"``, ``"time"``, ``"model"``, ``"quality"`` or ``"budget"``.
        figure: What it is, in words; parts of a sum are named after it: ``"device peak: weights"``.
        value: In base units (bytes, seconds, joules, the metric's own); ``None`` where nothing is predicted.
        low, high: 90 % interval, where there is one.
        evidence: As in ``CostEstimate``; empty of parts.
        origin: One sentence.
        shown, shown_interval: The value and the interval as a table writes them.
    """

    section: str
    figure: str
    value: float | None
    low: float | None
    high: float | None
    evidence: str
    origin: str
    shown: str
    shown_interval: str


_SOURCES = {
    "measured": "a measured run of this very configuration",
    "calibrated": "operators measured on this machine (advisor calibrate)",
    "transferred": "a calibration of another device, model or version of the libraries",
    "datasheet": "the device's datasheet or probe",
    "prior": "constants that ship with the advisor, not checked on this device",
}
_MEMORY_SOURCES = {**_SOURCES, "calibrated": "checked against steps that were measured on this machine"}
_QUALITY_SOURCES = {
    "measured": "runs or a probe of this very task",
    "calibrated": "runs on this machine",
    "transferred": "recorded runs of other tasks, moved here by the task's linear probe, or other methods' short runs",
    "datasheet": "figures of the model's authors",
    "prior": "published comparisons of methods",
}
_MEMORY_PARTS = {
    "weights_bytes": ("weights", "counted: parameters of model and adapter in their data types"),
    "gradients_bytes": ("gradients", "counted and traced: of what trains, while they are alive"),
    "optimizer_states_bytes": ("optimizer states", "counted: states of the optimizer for what trains"),
    "activations_bytes": ("activations", "traced: tensors that the step keeps for its backward pass"),
    "temporaries_bytes": ("temporaries", "traced, and what the allocator caches on top by its own rules"),
    "workspace_bytes": ("library workspaces", "device profile: workspaces of matrix libraries"),
    "context_bytes": ("process and context", "device profile: a process besides its tensors"),
}
_TIME_PARTS = {
    "data": "rows x time of reading and tokenising one, measured here where the data were read",
    "loading": "bytes of weights over the storage's rate",
    "set_up": "usual set-up of the Trainer",
    "warm_up": "first step beyond the others, by library",
    "training": "optimizer steps x time of a step, over the lengths of the rows",
    "between_steps": "fetching batches and callbacks, per step",
    "evaluation": "passes over the held-out rows x time of a forward pass",
    "checkpoints": "bytes of a checkpoint over the storage's rate",
    "saving": "bytes of the result over the storage's rate",
}


def number_origins(plan: Plan) -> tuple[NumberOrigin, ...]:
    """Where each predicted number of a plan comes from; empty for a plan without predictions."""
    cost = plan.predicted
    if cost is None:
        return ()
    time = tuple(_time(cost.time)) if cost.time is not None else ()
    quality = tuple(_quality(cost.quality)) if cost.quality is not None else ()
    return (*_memory(cost.memory), *time, *_model(cost), *quality, *_budget(plan, cost))


def _number(
    section: str,
    figure: str,
    value: float | None,
    show: Callable[[float], str],
    origin: str,
    interval: Interval | None = None,
    evidence: str = "",
) -> NumberOrigin:
    low, high = (interval.low, interval.high) if interval is not None else (None, None)
    shown = show(value) if value is not None else "unknown"
    return NumberOrigin(
        section, figure, value, low, high, evidence, origin, shown, format_interval(interval, show) if interval else ""
    )


def _memory(memory: MemoryEstimate) -> Iterator[NumberOrigin]:
    how = f"the training step, traced without weights, and its allocator replayed; {_MEMORY_SOURCES[memory.basis]}"
    peaks = [("device peak", "device_bytes", f"{how}; the peak is in {memory.peak_phase}")]
    if memory.required_bytes is not None:
        peaks.append(("least that the device must have", "required_bytes", "the same, with cached memory given back"))
    peaks.append(("allocated peak", "allocated_bytes", "traced: live tensors at the peak"))
    for figure, name, origin in peaks:
        value, interval = getattr(memory, name), memory.intervals.get(name)
        yield _number("memory", figure, value, format_bytes, origin, interval, memory.evidence)
    total = max(memory.breakdown.total_bytes, 1)
    for name, value in asdict(memory.breakdown).items():
        label, origin = _MEMORY_PARTS[name]
        if value:
            share = format_share(value / total)
            yield _number("memory", f"device peak: {label}", value, format_bytes, f"{origin} ({share})")


def _time(time: TimeEstimate) -> Iterator[NumberOrigin]:
    how = f"operators of the traced step, each priced by {_SOURCES[time.basis]}"
    step, total = time.intervals.get("step_s"), time.intervals.get("total_s")
    yield _number("time", "one optimizer step", time.step_s, format_duration, how, step, time.evidence)
    yield _number("time", "whole run", time.total_s, format_duration, "the sum of its parts", total, time.evidence)
    for name, value in time.parts.items():
        origin = _TIME_PARTS.get(name, "a part of the run")
        label = f"whole run: {PART_LABELS.get(name, name)}"
        share = format_share(value / time.total_s) if time.total_s else ""
        yield _number("time", label, value, format_duration, f"{origin} ({share})")
    if (speed := time.inference) is not None:
        origin = f"the forward pass alone, in evaluation batches; {_SOURCES[speed.basis]}"
        interval = speed.intervals.get("samples_per_s")
        figure = "inference, samples per second"
        yield _number("time", figure, speed.samples_per_s, format_rate, origin, interval, speed.evidence)
    for name, figure, origin in (
        ("latency_s", "latency of one row", "the same forward pass with one row of median length"),
        ("merged_latency_s", "latency of one row, merged", "the same without the adapters' operators"),
    ):
        if (value := getattr(time, name)) is not None:
            interval = time.intervals.get(name)
            yield _number("time", figure, value, format_duration, origin, interval, time.evidence)
    if time.energy_j is not None or time.energy_basis:
        interval = time.intervals.get("energy_j")
        yield _number("time", "energy", time.energy_j, format_energy, f"power x time: {time.energy_basis}", interval)


def _model(cost: CostEstimate) -> Iterator[NumberOrigin]:
    if cost.saved_bytes is not None:
        origin = "counted: what the method saves, in the data types that it saves it in"
        yield _number("model", "saved weights", cost.saved_bytes, format_bytes, origin, cost.saved_interval)
    for figure, value in (
        ("trainable parameters", cost.trainable_parameters),
        ("all parameters", cost.total_parameters),
    ):
        yield _number("model", figure, value, lambda number: f"{number:,.0f}", "counted on the traced model")


def _quality(quality: QualityEstimate) -> Iterator[NumberOrigin]:
    metric, show = quality.metric.title, quality.metric.show
    origin = (
        f"{quality.reason}; from {_QUALITY_SOURCES[quality.basis]}" if quality.value is not None else quality.reason
    )
    yield _number("quality", metric, quality.value, show, origin, quality.interval, quality.evidence)
    for name, part in quality.parts.items():
        yield _number("quality", f"{metric}: {name}", part, show, "a term of the sum")
    for point in quality.curve:
        figure = f"{metric}: after {point.epochs:g} epochs, {point.steps:,} steps"
        origin = "a whole run of that length; the onset follows log2(steps x relative learning rate)"
        yield _number("quality", figure, point.value, show, origin, point.interval, point.evidence)
    if quality.p_at_least is not None:
        yield _number(
            "quality", "probability of the minimum", quality.p_at_least, lambda p: f"{p:.0%}", "by the interval"
        )


def _budget(plan: Plan, cost: CostEstimate) -> Iterator[NumberOrigin]:
    for figure in FIGURES:
        limit = getattr(plan.budget, figure.name)
        if limit is None:
            continue
        level = figure.level if figure.level is not None else plan.budget.safety_level
        needed = figure.upper(cost, level)
        kept = "unknown" if needed is None else "kept" if needed <= limit else "exceeded"
        origin = f"{kept}: {figure.option} {figure.show(limit)}, which must hold with probability {level:g}"
        yield _number("budget", f"{figure.title}, at most", needed, figure.show, origin)


def show_answer(plan: Plan, *, why: bool) -> dict[str, Any]:
    """``show --json``: the plan, and with ``why`` where each predicted number comes from."""
    return {"plan": to_dict(plan), **({"why": to_dict(list(number_origins(plan)))} if why else {})}


def print_plan(console: Console, plan: Plan, *, title: str, why: bool) -> None:
    """Print a plan in words, its predicted cost, or where each number of it comes from."""
    data, profile = plan.data, plan.data_profile
    say(console, f"[bold]{escape(title)}[/bold]")
    say(console, f"  model: {escape(plan.model.source)}, {plan.model.traits.title}")
    say(
        console,
        f"  data: {escape(data.source)}, {profile.train_rows:,} training and {profile.eval_rows:,} held-out rows",
    )
    say(console, f"  strategy: {plan.strategy.method} {format_strategy(plan.strategy)}")
    say(console, f"  execution: {format_execution(plan.execution)}")
    say(console, f"  device: {escape(plan.device)}; limits: {plan.budget.in_words()}")
    if plan.predicted is None:
        say(console, f"nothing was predicted of this plan; `advisor predict --plan {escape(title)}` does it")
        return
    if not why:
        print_cost(console, plan.predicted, title="Predicted", budget=plan.budget)
        return
    table = make_table("figure", ">value", ">90 % interval", "evidence", "where it comes from", title="Why")
    section = ""
    for item in number_origins(plan):
        if item.section != section:
            section = item.section
            table.add_row(f"[bold]{section}[/bold]", "", "", "", "")
        part = item.figure.partition(": ")[2]
        figure = f"    {part}" if part else f"  {item.figure}"
        table.add_row(escape(figure), item.shown, item.shown_interval, item.evidence, escape(item.origin))
    print_table(console, table)
    for note in plan.predicted.notes:
        say(console, f"note: {escape(note)}")
