"""Job: what a linear classifier on frozen features shows of a task, and what a recommendation makes of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from advisor.core.budget import Budget
from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, InterruptedByUser
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.recommendation import Recommendation
from advisor.core.units import format_bytes, format_duration
from advisor.pipeline.environment import this_device_id
from advisor.pipeline.events import OnEvent, phase, progress
from advisor.pipeline.inputs import DataSource, Inputs, ModelSource, load_inputs

PROBE_SHARE, PROBE_MOST_S = 0.1, 60.0
"""What ``recommend`` lets a probe take: this share of the time budget, and never more seconds than that."""
GRACE_S = 30.0
"""A probe that has not ended so long after its limit is stopped."""
LEAST_S = 3.0
"""Below this, loading libraries and model is all that would be done."""
LOADED_BYTES_PER_S, LOADING_SHARE = 6e8, 0.25
"""A model whose weights take longer to load than this share of the limit is not probed (rate: ``costmodel.time``)."""
MEMORY_FACTOR, MEMORY_BYTES = 3, 1 << 27
"""Memory that a probe needs beside a process with its libraries: this many times the weights, and one batch."""
SHOWN = 3
"""Doubtful rows and confused classes that the advice names."""


def probe_task(
    model: str | ModelSource,
    data: str | DataSource,
    *,
    limit_s: float | None = None,
    on_event: OnEvent | None = None,
) -> LinearProbeReport:
    """Pass the rows through the frozen model once, here, and fit a linear classifier to what comes out.

    Args:
        model: With weights.
        data: Labelled rows.
        limit_s: Stop passing rows through the model after about this long.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: the task has no classes, or anything about model and data that cannot be used.
        RunFailed: out of memory or crashed.
    """
    return probe_inputs(load_inputs(model, data, on_event), limit_s=limit_s, on_event=on_event)


def probe_inputs(
    inputs: Inputs, *, limit_s: float | None, on_event: OnEvent | None = None, num_threads: int | None = None
) -> LinearProbeReport:
    """``probe_task`` of inputs that were looked at already; in a process of its own, so that it cannot take this one's
    memory.
    """
    from advisor.measurement.isolation import isolated
    from advisor.measurement.task_probe import probe_here
    from advisor.training.linear_probe.features import check_probed_task

    check_probed_task(inputs.model.task)
    phase(on_event, "linear probe: one pass over the rows, nothing is trained")
    report = progress(on_event)
    return isolated(
        probe_here,
        inputs.model,
        inputs.data,
        inputs.profile,
        device_id=this_device_id(),
        end_at_s=None if limit_s is None else time.time() + limit_s,
        num_threads=num_threads,
        on_event=lambda event: report("rows", event["share"]),
        timeout_s=None if limit_s is None else limit_s + GRACE_S,
    ).unwrap()


def can_be_probed(inputs: Inputs) -> bool:
    """Whether weights and rows with one class each are at hand."""
    return inputs.model.has_weights and inputs.model.traits.one_class_per_row


def probe_limit_s(budget: Budget) -> float:
    """How long the probe of a recommendation may take."""
    return min(PROBE_MOST_S, PROBE_SHARE * budget.time_s if budget.time_s is not None else PROBE_MOST_S)


def probe_first(
    inputs: Inputs, budget: Budget, device: DeviceProfile, on_event: OnEvent | None
) -> LinearProbeReport | str:
    """The report of a probe, or why there is none, for a recommendation on a device."""
    limit_s = probe_limit_s(budget)
    needed_bytes = device.context_bytes + MEMORY_FACTOR * inputs.model.weights_bytes + MEMORY_BYTES
    free_bytes = min(_free_bytes(), budget.memory_limit_bytes(device))
    refusal = why_not_probed(inputs.model.weights_bytes, needed_bytes, limit_s, free_bytes, here=_is_here(device))
    if refusal is not None:
        return f"no linear probe was made: {refusal}"
    try:
        return probe_inputs(inputs, limit_s=limit_s, on_event=on_event, num_threads=device.num_threads)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        return f"the linear probe did not finish: {failure.message}"


def why_not_probed(weights_bytes: int, needed_bytes: int, limit_s: float, free_bytes: int, *, here: bool) -> str | None:
    """Why a probe would cost more than it may; ``None`` when it would not.

    Args:
        weights_bytes: Of the model on disk.
        needed_bytes: Memory that the probe takes.
        limit_s: What the probe may take.
        free_bytes: Of this machine's memory, and inside the budget.
        here: Whether the plans are for this machine.
    """
    if not here:
        return "the plans are for another machine"
    if limit_s < LEAST_S:
        return f"a tenth of the time budget, {format_duration(limit_s)}, is too short"
    if weights_bytes / LOADED_BYTES_PER_S > LOADING_SHARE * limit_s:
        return f"loading {format_bytes(weights_bytes)} of weights takes too much of {format_duration(limit_s)}"
    if needed_bytes > free_bytes:
        return f"it needs {format_bytes(needed_bytes)} of memory, and {format_bytes(free_bytes)} are free or allowed"
    return None


def _is_here(device: DeviceProfile) -> bool:
    return device.id == this_device_id()


def _free_bytes() -> int:
    from advisor.hardware.host import inspect_host

    return inspect_host().available_bytes


# --------------------
# What a recommendation makes of a report.


def with_probe(recommendation: Recommendation, report: LinearProbeReport) -> Recommendation:
    """The same plans, ordered by what the probe measured and by what is expected of the others."""
    from advisor.costmodel.quality.probed import ProbedQuality
    from advisor.search.planner import rerank

    ranked = rerank(recommendation, ProbedQuality(report)) if recommendation.ranked else recommendation
    return dataclasses.replace(ranked, probe=report, advice=(*probe_advice(ranked, report), *ranked.advice))


def probe_advice(recommendation: Recommendation, report: LinearProbeReport) -> tuple[str, ...]:
    """What the probe showed, in sentences."""
    return tuple(_advice(recommendation, report))


def _advice(recommendation: Recommendation, report: LinearProbeReport) -> Iterator[str]:
    metric, low, high = report.metric, report.interval.low, report.interval.high
    yield (
        f"linear probe (logistic regression on frozen features): {metric.title} {metric.show(report.value)} "
        f"(90 %: {metric.show(low)} to {metric.show(high)}) on {report.eval_rows:,} held-out rows; "
        f"with training rows: {report.curve_in_words}; always the most frequent class: "
        f"{metric.show(report.chance_value)}; {report.spent}"
    )
    if report.near_chance:
        confused = "; ".join(
            f"{pair.label} taken for {pair.predicted} in {pair.rows} rows ({pair.share:.0%})"
            for pair in report.confused[:SHOWN]
        )
        yield f"these labels can hardly be told from this text; most confused: {confused}"
    elif report.doubtful_rows:
        rows = "; ".join(
            f"row {row.row} ({row.text[:60]!r}) is {row.label}, the probe says {row.likely} ({row.probability:.2f})"
            for row in report.doubtful[:SHOWN]
        )
        yield f"{report.doubtful_rows:,} training rows may have a wrong label: {rows}"
    if recommendation.best is None:
        return
    from advisor.strategies import get_strategy

    probed = [get_strategy(item.plan.strategy.method).fits_frozen_features for item in recommendation.ranked]
    quality = recommendation.best.predicted.quality if recommendation.best.predicted is not None else None
    if probed[0] and len(probed) > 1:
        yield "no other plan is expected to beat the probe by more than the noise between seeds, so it is recommended"
    elif not any(probed) and quality is not None and (quality.value or 0.0) <= report.value:
        yield "the probe reaches more than is expected of the methods that were asked for; linear_probe is none of them"
