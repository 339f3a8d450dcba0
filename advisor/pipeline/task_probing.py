"""Job: what a linear classifier on frozen features of a model shows of a task."""

from __future__ import annotations

from advisor.core.linear_probe import LinearProbeReport
from advisor.pipeline.environment import this_device_id
from advisor.pipeline.events import OnEvent, phase, progress
from advisor.pipeline.inputs import DataSource, Inputs, ModelSource, load_inputs


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


def probe_inputs(inputs: Inputs, *, limit_s: float | None, on_event: OnEvent | None) -> LinearProbeReport:
    """``probe_task`` of inputs that were looked at already; in a process of its own, so that it cannot take this one's
    memory.
    """
    from advisor.measurement.isolation import isolated
    from advisor.measurement.task_probe import probe_here
    from advisor.training.linear_probe.features import check_probed_task

    check_probed_task(inputs.model.task)
    phase(on_event, "linear classifier on frozen features")
    report = progress(on_event)
    return isolated(
        probe_here,
        inputs.model,
        inputs.data,
        inputs.profile,
        device_id=this_device_id(),
        limit_s=limit_s,
        on_event=lambda event: report("rows", event["share"]),
    ).unwrap()
