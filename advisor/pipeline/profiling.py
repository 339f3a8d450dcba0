"""Job: where the time of a plan's optimizer step goes, measured by the profiler and predicted from the trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.data import padded_length
from advisor.core.errors import AdvisorError, InputError, InterruptedByUser
from advisor.core.plan import Plan
from advisor.core.serialization import to_json
from advisor.core.store import write_text_atomically
from advisor.pipeline.environment import this_machine
from advisor.pipeline.events import OnEvent, note, phase

if TYPE_CHECKING:
    from advisor.experiments.operator_families import StepFamilies

PROFILE_FILE = "profile.json"
"""In a run's folder: ``StepFamilies``."""
CHROME_TRACE_FILE = "trace.json"
TIMEOUT_S = 1800.0


def check_takes_steps(plan: Plan) -> None:
    """Refuse a plan that has no optimizer step to profile.

    Raises:
        InputError: its method fits a classifier to frozen features.
    """
    from advisor.strategies import get_strategy

    if get_strategy(plan.strategy.method).fits_frozen_features:
        raise InputError(
            f"a profile needs a method that takes optimizer steps, but {plan.strategy.method} fits a classifier",
            fix="leave --profile out, or profile a plan of another method",
        )


def profile_run(
    plan: Plan, directory: Path, *, chrome_trace: bool = False, on_event: OnEvent | None = None
) -> StepFamilies | None:
    """Profile the plan of a finished run and keep the result in its folder (``profile.json``).

    A profile that cannot be made is told and does not harm the run.

    Args:
        plan: Of the run.
        directory: Its folder.
        chrome_trace: Also keep the profiler's events there, in ``trace.json``.
        on_event: Receives the job's events (:mod:`advisor.core.events`).
    """
    try:
        trace = directory / CHROME_TRACE_FILE if chrome_trace else None
        found = profile_plan(plan, chrome_trace=trace, on_event=on_event)
    except InterruptedByUser:
        raise
    except AdvisorError as failure:
        note(on_event, f"no profile was made: {failure.message}")
        return None
    write_text_atomically(directory / PROFILE_FILE, to_json(found))
    return found


def profile_plan(plan: Plan, *, chrome_trace: Path | None = None, on_event: OnEvent | None = None) -> StepFamilies:
    """Run some steps of a plan in a process of their own, one of them under ``torch.profiler``, and group its time.

    A step is one micro-batch of rows of the plan's length, without accumulation; weights are used where there are any.

    Args:
        plan: What is profiled, on this machine.
        chrome_trace: File for the profiler's events.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: the method trains nothing.
        RunFailed: out of memory, out of time, or crashed.
        UntraceableError: the configuration cannot be traced.
    """
    from advisor.calibration.selection import calibration_for
    from advisor.experiments.operator_families import profile_request, step_families
    from advisor.measurement.steps import measure_steps

    check_takes_steps(plan)
    device = this_machine(on_event)
    calibration, remark = calibration_for(device, at_hand=True)
    if remark:
        note(on_event, remark)
    execution = dataclasses.replace(plan.execution, gradient_accumulation_steps=1)
    length = padded_length(plan.execution.max_seq_length)
    request = profile_request(plan.model, plan.strategy, execution, device, length, chrome_trace)
    phase(on_event, f"profiling a step of {plan.strategy.method}")
    found = measure_steps(request, timeout_s=TIMEOUT_S)
    return step_families(request, found, device, calibration)
