"""Measured steps as users bring them: a JSON list, or the folder of a run that has ended."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.run import RunRecord
from advisor.core.serialization import from_dict, read_json
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.events import OnEvent, progress
from advisor.pipeline.inputs import ModelSource
from advisor.pipeline.outputs import RECORD_FILE
from advisor.pipeline.predicting import configure
from advisor.pipeline.steps_file import MeasuredStep, read_entries, refused

LEAST_RUN_STEPS = 3
"""Of a run, behind its median; the first step warms up and does not count."""


@dataclass(frozen=True)
class Trust:
    """How far models are trusted: code of their own, pickled weights."""

    remote_code: bool = False
    pickle: bool = False


@dataclass(frozen=True)
class TimedConfiguration:
    """One exact configuration and how long its optimizer step took.

    Attributes:
        seq_length: Padded length of its micro-batches.
    """

    label: str
    model: ModelSpec
    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    step_s: float


def read_steps(
    paths: Sequence[Path],
    device: DeviceProfile,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    on_event: OnEvent | None = None,
) -> list[TimedConfiguration]:
    """Read measured steps and look at their models.

    Args:
        paths: JSON lists of :class:`advisor.pipeline.steps_file.MeasuredStep`, or folders of runs.
        device: Where they were measured.
        trust_remote_code: Allow Python code that comes with a model.
        allow_pickle: Allow pickled weights.
        on_event: Told what is being looked at.

    Returns:
        Each configuration once: of one that was measured repeatedly the median, as repeats cannot tell how far other
        configurations will be off.

    Raises:
        InputError: a file is missing or damaged, or an entry cannot be understood; all problems of a file together.
    """
    trust = Trust(trust_remote_code, allow_pickle)
    found: list[TimedConfiguration] = []
    for path in paths:
        found += [_of_run(path, device)] if path.is_dir() else _of_list(path, device, trust, on_event)
    return _each_once(found)


def described(model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, tokens: int | str) -> str:
    """``"mistral-7b lora r=8, 4 x 2 rows, 2048 tokens, checkpointing"`` (accumulated twice)."""
    path = Path(model.source)
    name = path.parent.name or path.stem if path.name == "config.json" else path.name.removesuffix(".json")
    rank = f" r={strategy.rank}" if strategy.rank is not None else ""
    rows = f"{execution.micro_batch_size} x {execution.gradient_accumulation_steps} rows"
    parts = [f"{name} {strategy.method}{rank}", rows, f"{tokens} tokens"]
    if execution.gradient_checkpointing:
        parts.append("checkpointing")
    return ", ".join(parts)


def _each_once(found: Sequence[TimedConfiguration]) -> list[TimedConfiguration]:
    kept: list[list[TimedConfiguration]] = []
    for step in found:
        alike = (same for same in kept if replace(same[0], label=step.label, step_s=step.step_s) == step)
        repeats = next(alike, None)
        if repeats is None:
            kept.append([step])
        else:
            repeats.append(step)
    return [
        replace(
            steps[0],
            label=steps[0].label + (f", median of {len(steps)}" if len(steps) > 1 else ""),
            step_s=statistics.median(step.step_s for step in steps),
        )
        for steps in kept
    ]


def _of_list(path: Path, device: DeviceProfile, trust: Trust, on_event: OnEvent | None) -> list[TimedConfiguration]:
    entries = read_entries(path)
    found, failures = [], []
    report = progress(on_event)
    for number, entry in enumerate(entries, start=1):
        report(f"looking at step {number} of {len(entries)}", (number - 1) / len(entries))
        try:
            found.append(_looked_at(entry, path.parent, device, trust))
        except InputError as failure:
            failures.append((number, failure))
    if failures:
        problems = [
            f"step {number}: {text}" for number, failure in failures for text in (failure.message, *failure.problems)
        ]
        raise refused(path, problems, failures[0][1].fix)
    return found


def _looked_at(entry: MeasuredStep, folder: Path, device: DeviceProfile, trust: Trust) -> TimedConfiguration:
    beside = folder / entry.model
    source = ModelSource(str(beside) if beside.exists() else entry.model, entry.task, trust.remote_code, trust.pickle)
    found = configure(
        source,
        method=entry.method,
        knobs=entry.knobs,
        execution=entry.execution,
        num_labels=entry.num_labels,
        device=device.id,
    )
    label = described(found.model, found.strategy, found.execution, entry.seq_length)
    return TimedConfiguration(label, found.model, found.strategy, found.execution, entry.seq_length, entry.step_s)


def _of_run(folder: Path, device: DeviceProfile) -> TimedConfiguration:
    """The median step of a run. Its micro-batches differ in length as the data do, so that it is the step of their
    median length; of several micro-batches the sum, nearly symmetric, has the mean length's.
    """
    from advisor.costmodel.time.lengths import micro_batch_lengths

    path = folder / RECORD_FILE
    record = from_dict(RunRecord, read_json(path, what="the record of the run"), what=str(path))
    plan, times_s = record.plan, record.measurement.step_times_s[1:]
    if problems := _unusable(record, device, len(times_s)):
        raise refused(folder, problems, "name runs that ended on this device, or a JSON list of steps")
    lengths = micro_batch_lengths(plan.data_profile, plan.execution)
    several = plan.execution.gradient_accumulation_steps > 1
    tokens = round(lengths.mean) if several else lengths.quantile(0.5)
    varying = f"{lengths.lengths[0]} to {lengths.lengths[-1]} ({'mean' if several else 'median'} {tokens})"
    shown = tokens if len(lengths.lengths) == 1 else varying
    label = described(plan.model, plan.strategy, plan.execution, shown)
    return TimedConfiguration(label, plan.model, plan.strategy, plan.execution, tokens, statistics.median(times_s))


def _unusable(record: RunRecord, device: DeviceProfile, steps: int) -> list[str]:
    """Why a run says nothing of a device, one sentence each."""
    from advisor.hardware.profiles import DRIVER_NAMES

    problems = []
    if DRIVER_NAMES.get(record.device_id, record.device_id) != device.id:
        problems.append(f"it must have run on {device.id}, but it ran on {record.device_id}")
    if steps < LEAST_RUN_STEPS:
        problems.append(f"it must have {LEAST_RUN_STEPS} steps after the first, but it has {steps}")
    if record.plan.execution.torch_compile:
        problems.append("its model was compiled, and compiled steps are not predicted")
    return problems
