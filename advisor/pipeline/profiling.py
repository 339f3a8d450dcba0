"""Job: where the time of a plan's optimizer step goes, measured by the profiler and predicted from the trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.data import padded_length
from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, InputError, InterruptedByUser
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.serialization import to_json
from advisor.core.store import write_text_atomically
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.environment import this_machine
from advisor.pipeline.events import OnEvent, note, phase
from advisor.pipeline.inputs import DataSource, ModelSource
from advisor.pipeline.predicting import configured, look_at

if TYPE_CHECKING:
    from advisor.experiments.operator_families import StepFamilies

PROFILE_FILE = "profile.json"
"""In a run's folder: ``StepFamilies``."""
CHROME_TRACE_FILE = "trace.json"
TIMEOUT_S = 1800.0


def check_takes_steps(method: str) -> None:
    """Refuse a method that has no optimizer step to profile.

    Raises:
        InputError: it is not registered, or it fits a classifier to frozen features.
    """
    from advisor.strategies import get_strategy

    if get_strategy(method).fits_frozen_features:
        raise InputError(
            f"a profile needs a method that takes optimizer steps, but {method} fits a classifier to frozen features",
            fix="leave --profile out of `run`; name other --methods for `bench profile`",
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
    check_takes_steps(plan.strategy.method)
    return _profiled(plan.model, plan.strategy, plan.execution, this_machine(on_event), chrome_trace, on_event)


def profile_methods(
    model: str | ModelSource,
    methods: Sequence[str],
    *,
    data: str | DataSource | None = None,
    execution: Mapping[str, Any] | None = None,
    num_labels: int = 2,
    on_profile: Callable[[StepFamilies], None] = lambda profile: None,
    on_event: OnEvent | None = None,
) -> tuple[StepFamilies, ...]:
    """Profile a step of several methods with the same rows: each with its defaults, one after another.

    Args:
        model: Folder, ``config.json``, GGUF file, hub id or demo model; random weights will do.
        methods: Registered strategies.
        data: Gives the length of the rows and the classes.
        execution: Fields of :class:`ExecutionPlan` that differ from the defaults, for all methods.
        num_labels: Classes of the head when there is no data.
        on_profile: Is given every profile as soon as it is there.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used, before anything is run.
        RunFailed: out of memory, out of time, or crashed.
        UntraceableError: a configuration cannot be traced.
    """
    for method in methods:
        check_takes_steps(method)
    from advisor.strategies import get_strategy

    spec, profile = look_at(model, data, num_labels=num_labels, on_event=on_event)
    device = this_machine(on_event)
    configurations = [
        configured(spec, profile, get_strategy(method), execution=execution, device=device, on_event=on_event)
        for method in methods
    ]
    found: list[StepFamilies] = []
    for each in configurations:
        found.append(_profiled(each.model, each.strategy, each.execution, each.device, None, on_event))
        on_profile(found[-1])
    return tuple(found)


def _profiled(
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    device: DeviceProfile,
    chrome_trace: Path | None,
    on_event: OnEvent | None,
) -> StepFamilies:
    from advisor.calibration.selection import calibration_for
    from advisor.experiments.operator_families import profile_request, step_families
    from advisor.measurement.steps import measure_steps

    calibration, remark = calibration_for(device, at_hand=True)
    if remark:
        note(on_event, remark)
    execution = dataclasses.replace(execution, gradient_accumulation_steps=1)
    length = padded_length(execution.max_seq_length)
    request = profile_request(model, strategy, execution, device, length, chrome_trace)
    phase(on_event, f"profiling a step of {strategy.method}")
    return step_families(request, measure_steps(request, timeout_s=TIMEOUT_S), device, calibration)
