"""Measured steps as users bring them: a JSON list with keys of a configuration, or the folder of a finished run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.events import OnEvent
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import SHORT_DTYPES, ExecutionPlan
from advisor.core.run import load_record
from advisor.core.serialization import from_dict, read_json
from advisor.core.strategy import SHARED_KNOBS, StrategyConfig
from advisor.pipeline.events import progress
from advisor.pipeline.inputs import ModelSource
from advisor.pipeline.outputs import RECORD_FILE
from advisor.pipeline.predicting import configure
from advisor.strategies import find_strategy

T = TypeVar("T")

LEAST_RUN_STEPS = 3
"""Of a run, behind its median; the first step warms up and does not count."""
MOST_PROBLEMS = 10
"""An error is one screen."""
JSON_NAMES = {dict: "an object", str: "a string", int: "a number", float: "a number", bool: "true or false"}
"""What JSON calls what it was parsed to."""
UNTIMED = {"max_seq_length", "eval_batch_size", "num_threads", "group_by_length", "torch_compile"}
"""Fields of an execution plan that do not change a step of rows of one length."""
EXAMPLE = (
    'write [{"model": "./llama/config.json", "task": "causal-lm", "method": "lora", "rank": 8, "dtype": "bf16", '
    '"micro_batch_size": 4, "seq_length": 1024, "step_s": 0.61}, ...]; `advisor calibrate --help` names every key'
)


@dataclass(frozen=True)
class MeasuredStep:
    """One entry of a list of measured steps.

    In the file, fields of :class:`ExecutionPlan` and knobs stand beside the others, under their own names; data types
    may be abbreviated as on the command line. What is left out is as ``predict`` has it by default.

    Attributes:
        model: Folder, ``config.json``, GGUF file, hub id or demo model; a path may be relative to the list's folder.
        method: Registered strategy.
        seq_length: Tokens of every row, padding included.
        step_s: Wall clock of one optimizer step, all its micro-batches included; best a median after warming up.
        source: Where the number comes from, for the reader.
        task: As ``predict`` chooses it, when ``None``.
        num_labels: Classes of the head.
        execution: The fields of the execution plan that the entry has.
        knobs: The knobs of the strategy that the entry has.
    """

    model: str
    method: str
    seq_length: int
    step_s: float
    source: str = ""
    task: Task | None = None
    num_labels: int = 2
    execution: dict[str, Any] = field(default_factory=dict)
    knobs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.step_s > 0 and math.isfinite(self.step_s)):
            raise ValueError(f"step_s > 0 must hold (seconds), but got {self.step_s}")
        if self.seq_length < 1:
            raise ValueError(f"seq_length >= 1 must hold, but got {self.seq_length}")


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
        paths: JSON lists of :class:`MeasuredStep`, or folders of runs.
        device: Where they were measured.
        trust_remote_code: Allow Python code that comes with a model.
        allow_pickle: Allow pickled weights.
        on_event: Receives what is being looked at.

    Returns:
        Each configuration once: of one that was measured repeatedly the median, as repeats do not show the error
        on other configurations.

    Raises:
        InputError: a file is missing or damaged, or an entry cannot be understood; all problems of a file together.
    """

    def configured(step: MeasuredStep, folder: Path) -> TimedConfiguration:
        beside = folder / step.model
        found = configure(
            ModelSource(
                str(beside) if beside.exists() else step.model,
                step.task,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
            ),
            method=step.method,
            knobs=step.knobs,
            execution={**step.execution, "max_seq_length": step.seq_length},
            num_labels=step.num_labels,
            device=device.id,
        )
        label = described(found.model, found.strategy, found.execution, step.seq_length)
        return TimedConfiguration(label, found.model, found.strategy, found.execution, step.seq_length, step.step_s)

    found: list[TimedConfiguration] = []
    for path in paths:
        if path.is_dir():
            found.append(_of_run(path, device))
            continue
        steps, report = read_list(path), progress(on_event)
        problems, fixes = [], []
        for number, step in enumerate(steps, start=1):
            report(f"looking at step {number} of {len(steps)}", (number - 1) / len(steps))
            try:
                found.append(configured(step, path.parent))
            except InputError as failure:
                problems += [f"step {number}: {text}" for text in (failure.message, *failure.problems)]
                fixes.append(failure.fix)
        if problems:
            raise refused(path, problems, fixes[0])
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


def read_list(path: Path) -> list[MeasuredStep]:
    """A JSON list of measured steps, every entry checked.

    Raises:
        InputError: with every problem.
    """
    try:
        values = read_json(path, what="the list of measured steps")
    except InputError as failure:
        raise InputError(failure.message, fix=EXAMPLE if path.is_file() else failure.fix) from None
    if not isinstance(values, list) or not values:
        held = "an empty one" if values == [] else JSON_NAMES.get(type(values), "something else")
        raise InputError(f"measured steps must be a JSON list, but {path} holds {held}", fix=EXAMPLE)
    steps, problems = [], []
    for number, value in enumerate(values, start=1):
        try:
            steps.append(_entry(value))
        except InputError as failure:
            texts = failure.problems or (failure.message,)
            problems += [f"step {number}: {text.removeprefix('(top level): ')}" for text in texts]
    if problems:
        raise refused(path, problems, EXAMPLE)
    return steps


def refused(path: Path, problems: Sequence[str], fix: str | None) -> InputError:
    """The error about a list or a run that cannot be used."""
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return InputError(
        f"measured steps must be complete and possible, but those in {path} are not",
        problems=[*problems[:MOST_PROBLEMS], *more],
        fix=fix,
    )


def _entry(value: Any) -> MeasuredStep:
    """One entry; its keys are its own, the execution plan's, or the strategy's.

    Raises:
        InputError: with every problem.
    """
    if not isinstance(value, dict):
        raise InputError(f"it must be a JSON object, but it is {JSON_NAMES.get(type(value), 'null')}")
    own_names = {f.name for f in fields(MeasuredStep)} - {"execution", "knobs"}
    execution_names = {f.name for f in fields(ExecutionPlan)} - UNTIMED
    own = {name: item for name, item in value.items() if name in own_names}
    execution = {name: item for name, item in value.items() if name in execution_names and item is not None}
    knobs = {name: item for name, item in value.items() if name not in own_names | execution_names and item is not None}
    if isinstance(short := execution.get("dtype"), str):
        execution["dtype"] = SHORT_DTYPES.get(short, short)
    problems: list[str] = []
    step = _checked(problems, lambda: from_dict(MeasuredStep, own, what="it"))
    plan = _checked(problems, lambda: from_dict(ExecutionPlan, execution, what="it"))
    if (strategy := find_strategy(str(value.get("method")))) is not None:
        known = SHARED_KNOBS | {knob.name for knob in fields(strategy.knobs)}
        problems += [f"{name}: unknown field, {item!r:.80}" for name, item in knobs.items() if name not in known]
    if step is None or plan is None or problems:
        raise InputError("it is no measured step", problems=problems)
    return replace(step, execution={name: getattr(plan, name) for name in execution}, knobs=knobs)


def _checked(problems: list[str], read: Callable[[], T]) -> T | None:
    """What ``read`` gives, or ``None`` where it adds to the problems."""
    try:
        return read()
    except InputError as failure:
        problems += failure.problems or (failure.message,)
        return None


def _each_once(found: Sequence[TimedConfiguration]) -> list[TimedConfiguration]:
    """Repeats of one configuration as their median."""
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


def _of_run(folder: Path, device: DeviceProfile) -> TimedConfiguration:
    """The median step of a run. Its micro-batches differ in length as the data do, so that it is the step of their
    median length; of several micro-batches the sum, nearly symmetric, has the mean length's.
    """
    from advisor.costmodel.time.lengths import micro_batch_lengths
    from advisor.hardware.profiles import DRIVER_NAMES

    path = folder / RECORD_FILE
    record = load_record(path, what="the record of the run")
    plan, times_s = record.plan, record.measurement.step_times_s[1:]
    problems = []
    if DRIVER_NAMES.get(record.device_id, record.device_id) != device.id:
        problems.append(f"it must have run on {device.id}, but it ran on {record.device_id}")
    if len(times_s) < LEAST_RUN_STEPS:
        problems.append(f"it must have {LEAST_RUN_STEPS} steps after the first, but it has {len(times_s)}")
    if plan.execution.torch_compile:
        problems.append("its model was compiled, and compiled steps are not predicted")
    if problems:
        raise refused(folder, problems, "name runs that ended on this device, or a JSON list of steps")
    lengths = micro_batch_lengths(plan.data_profile, plan.execution)
    several = plan.execution.gradient_accumulation_steps > 1
    tokens = round(lengths.mean) if several else lengths.quantile(0.5)
    varying = f"{lengths.lengths[0]} to {lengths.lengths[-1]} ({'mean' if several else 'median'} {tokens})"
    shown = tokens if len(lengths.lengths) == 1 else varying
    label = described(plan.model, plan.strategy, plan.execution, shown)
    return TimedConfiguration(label, plan.model, plan.strategy, plan.execution, tokens, statistics.median(times_s))
