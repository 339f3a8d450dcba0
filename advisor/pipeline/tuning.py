"""Job: search method, rank and relative learning rate with real trials."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.budget import Budget
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.events import Event
from advisor.core.objective import DEFAULT_OBJECTIVE, check_floor, get_objective
from advisor.core.pack import pack_choice
from advisor.core.plan import ExecutionPlan, Plan, load_plan
from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from advisor.core.store import ensure_writable_dir, write_text_atomically
from advisor.hardware.backends import backend_of
from advisor.hardware.backends.cpu import cpu_id
from advisor.hardware.energy import Counter, EnergyMeter
from advisor.hardware.host import inspect_host
from advisor.hardware.probe import QUICK_S, probe_device
from advisor.hardware.versions import installed_versions
from advisor.pipeline.environment import this_device_id, this_machine
from advisor.pipeline.events import OnEvent, note, phase
from advisor.pipeline.inputs import DataSource, Inputs, ModelSource, load_inputs
from advisor.pipeline.outputs import PLAN_FILE, RECORD_FILE, refuse_existing_file
from advisor.pipeline.predicting import as_execution_plan, check_bounds, cost_model_for
from advisor.pipeline.recommending import check_methods
from advisor.pipeline.task_probing import can_be_probed, probe_first
from advisor.reporting.verification import verify
from advisor.search.planner.candidates import candidates, given_knobs
from advisor.strategies import DEFAULT_METHOD, get_strategy, strategy_names
from advisor.training.tasks import get_task

if TYPE_CHECKING:
    from advisor.costmodel.quality.model import QualityModel
    from advisor.search.study import FinalRun, TuneResult

PROBED_FROM_S = 300.0
"""With less time, the probe and its start would take more than a tenth of it."""
FINAL_FOLDER = "final"
"""Of the study's folder: output and ``record.json`` of the verified final run."""


def tune(
    model: str | ModelSource,
    data: str | DataSource,
    *,
    study_dir: Path | str,
    budget: Budget | None = None,
    wall_clock_s: float = 3600.0,
    methods: Sequence[str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    max_trials: int | None = None,
    objective: str = DEFAULT_OBJECTIVE.name,
    energy_budget_j: float | None = None,
    pack: str | int = "auto",
    effective_batch_size: int = 32,
    seed: int = 42,
    resume: bool = False,
    output: Path | str | None = None,
    force: bool = False,
    resume_command: str | None = None,
    on_event: OnEvent | None = None,
) -> TuneResult:
    """Run a study whose trials train for real on this machine, each in its own process.

    Args:
        model: Folder, GGUF file, hub id or demo model; weights are needed.
        data: File, ``datasets`` folder, hub id or demo data set.
        study_dir: The study's database and files; with ``resume`` it is continued. ``plan.json`` in it is the best plan
            so far from the moment that model and data are known, however the call ends.
        budget: Memory and time bounds of the final run; candidates outside it are never started.
        wall_clock_s: How long this call may take, reading the data, predictions and the final run included. It is
            exceeded by at most one step and saving.
        methods: Search only these.
        knobs: Values by name that are given instead of searched, for every method that has them.
        max_trials: Stop after so many trials.
        objective: ``"quality"``; ``"cheapest"`` or ``"fastest"`` above ``budget.min_quality``; or ``"pareto"``, which
            answers with the best quality and shows every trade.
        energy_budget_j: What the runs of this call may take, by the device's own meter.
        pack: LoRA and QLoRA trials trained in one pass over the frozen model: ``"auto"`` where that is predicted to
            save time, ``"off"``, or how many at most, wherever they may be packed and the memory suffices.
        effective_batch_size: Kept the same for all trials.
        seed: Of sampler, hold-out and training.
        resume: Continue the study in ``study_dir``.
        output: A further file for the best plan so far.
        force: Replace an existing ``output``.
        resume_command: Shown when the user interrupts.
        on_event: Told about trials and their steps (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used.
        DeviceError: an energy budget on a device that has no meter.
        NothingFitsError: no candidate fits the budget.
        StudyInterrupted: Ctrl-C; every finished trial is kept, and ``result`` is what is known so far.
    """
    started_at = time.monotonic()
    check_methods(methods)
    aim, packs = get_objective(objective), pack_choice(pack)
    aim.check(budget or Budget())
    directory = Path(study_dir)
    if output is not None and not force and not resume:
        refuse_existing_file(Path(output))
    ensure_writable_dir(directory)
    outputs = [directory / PLAN_FILE, *([Path(output)] if output is not None else [])]
    inputs = load_inputs(model, data, on_event)
    get_task(inputs.model.task).require_trainer()
    check_floor(budget.min_quality if budget is not None else None, inputs.model.traits.metric)
    usual = as_execution_plan({}, inputs.model, inputs.profile)
    first = _first_plan(inputs, budget or Budget(), usual, effective_batch_size, seed, methods, knobs or {})
    if first is not None and not outputs[0].exists():
        for path in outputs:
            first.save(path)
    try:
        # Nothing ends on time that is not asked to: what comes before the trials stops between its own steps.
        before = _Deadline(on_event, started_at + wall_clock_s)
        device = _machine(before)
        if energy_budget_j is not None:
            check_meter(device.id, backend_of(device).runtime.energy_counter)
        quality = _quality(inputs, budget or Budget(), device, before, wall_clock_s)
        cost_model = cost_model_for(device, before, quality=quality)
        check_bounds(budget or Budget(), cost_model)
        before.check()
    except _OutOfTime:
        return _untried(inputs, load_plan(outputs[0]), directory, time.monotonic() - started_at, objective)
    from advisor.search.study import tune_study

    phase(on_event, "tuning")
    result = tune_study(
        inputs.model,
        inputs.data,
        inputs.profile,
        cost_model,
        budget or Budget(),
        study_dir=directory,
        time_budget_s=wall_clock_s,
        methods=methods,
        knobs=knobs,
        max_trials=max_trials,
        effective_batch_size=effective_batch_size,
        seed=seed,
        resume=resume,
        first_plan=usual,
        objective=aim,
        energy_budget_j=energy_budget_j,
        pack=packs,
        outputs=outputs[1:],
        resume_command=resume_command,
        on_event=on_event,
        started_at=started_at,
    )
    if result.final is not None:
        _record(result.final, directory / FINAL_FOLDER, started_s=time.time() - result.final.measurement.total_s)
    return result


class _OutOfTime(Exception):
    """The budget is used before the first trial."""


class _Deadline:
    """Passes events on, and ends the work that sends them when its time is over."""

    def __init__(self, on_event: OnEvent | None, until_s: float) -> None:
        self._on_event, self._until_s = on_event, until_s

    def __call__(self, event: Event) -> None:
        self.check()
        if self._on_event is not None:
            self._on_event(event)

    @property
    def left_s(self) -> float:
        return self._until_s - time.monotonic()

    def check(self) -> None:
        if time.monotonic() > self._until_s:
            raise _OutOfTime


def _machine(before: _Deadline) -> DeviceProfile:
    """This machine, probed if there is time for that.

    Raises:
        _OutOfTime: there is not, or there was not.
    """
    if this_device_id() is None and before.left_s < 2 * QUICK_S:
        raise _OutOfTime
    try:
        return this_machine(before, probe=functools.partial(probe_device, limit_s=max(1.0, before.left_s)))
    except DeviceError:
        before.check()
        raise


def check_meter(device_id: str, counter: Callable[[], Counter]) -> None:
    """Refuse to count energy where no meter says what was used.

    Args:
        device_id: For the message.
        counter: Opens the device's meter.

    Raises:
        DeviceError: with the reason.
    """
    with EnergyMeter(counter) as meter:
        pass
    if meter.joules is None:
        raise DeviceError(
            f"--energy-budget needs a device that reports its energy, but {device_id} does not: {meter.source}",
            fix="limit --budget or --trials instead, or run as a user who may read the meter (`advisor doctor`)",
        )


def _quality(
    inputs: Inputs, budget: Budget, device: DeviceProfile, before: _Deadline, wall_clock_s: float
) -> QualityModel | None:
    """What predicts quality where the budget has time to probe the task: the methods are tried in its order.

    The probe is judged on rows held out from the training rows, as trials are: the data's own held-out rows are kept
    for the final run.
    """
    if wall_clock_s < PROBED_FROM_S or not can_be_probed(inputs):
        return None
    from advisor.costmodel.quality.probed import ProbedQuality

    searched = dataclasses.replace(inputs, data=dataclasses.replace(inputs.data, inner_holdout=True))
    report = probe_first(searched, dataclasses.replace(budget, time_s=wall_clock_s), device, before)
    if isinstance(report, str):
        note(before, report)
        return None
    note(before, f"linear probe: {report.metric.title} {report.curve_in_words} training rows; {report.spent}")
    return ProbedQuality(report)


def _first_plan(
    inputs: Inputs,
    budget: Budget,
    usual: ExecutionPlan,
    effective_batch_size: int,
    seed: int,
    methods: Sequence[str] | None,
    knobs: Mapping[str, Any],
) -> Plan | None:
    """The recommended default before anything is known of this machine; ``None`` where no method has defaults."""
    names = methods or strategy_names()
    order = sorted(names, key=lambda name: name != DEFAULT_METHOD)
    usable = [config for name in order for config in candidates(inputs.model, [name]).usable]
    if not usable:
        return None
    config = candidates(inputs.model, [usable[0].method], given_knobs(get_strategy(usable[0].method), knobs)).usable[0]
    rows = max(n for n in range(1, usual.micro_batch_size + 1) if effective_batch_size % n == 0)
    execution = dataclasses.replace(
        usual, micro_batch_size=rows, gradient_accumulation_steps=effective_batch_size // rows
    )
    device = this_device_id() or cpu_id(inspect_host())
    versions = installed_versions()
    return Plan(inputs.model, inputs.data, inputs.profile, config, execution, device, seed, budget, versions=versions)


def _untried(inputs: Inputs, plan: Plan, directory: Path, elapsed_s: float, objective: str) -> TuneResult:
    """What a call answers that came to no trial."""
    from advisor.search.study import TuneResult

    return TuneResult(
        best=plan,
        best_trial=None,
        best_reason="the recommended default, untried",
        metric_name=inputs.model.traits.metric.name,
        trials=(),
        pareto=(),
        never_started=(),
        ladder_rows=(),
        full_rows=inputs.profile.train_rows,
        stopped_because="the time budget is used: looking at the data and at this machine took all of it",
        elapsed_s=elapsed_s,
        study_dir=str(directory),
        study_name="",
        final_skipped="there was no trial",
        objective=objective,
    )


def _record(final: FinalRun, folder: Path, *, started_s: float) -> None:
    """The final run's ``record.json``, as ``run`` writes it: predicted against measured."""
    path = folder / RECORD_FILE
    if path.exists():
        return
    started_at = datetime.datetime.fromtimestamp(started_s, datetime.UTC).isoformat(timespec="seconds")
    record = RunRecord(
        plan=final.plan,
        measurement=final.measurement,
        verifications=verify(final.plan, final.measurement, resumed=False),
        device_id=final.plan.device,
        versions=installed_versions(),
        started_at=started_at,
        output_dir=str(folder),
        resumed_from_step=0,
    )
    write_text_atomically(path, to_json(record))
