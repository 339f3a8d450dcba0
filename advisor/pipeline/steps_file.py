"""The JSON list in which users bring measured steps: every key, and every problem at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from advisor.core.errors import InputError
from advisor.core.model import Task
from advisor.core.plan import SHORT_DTYPES, ExecutionPlan
from advisor.core.serialization import from_dict, read_json
from advisor.core.strategy import SHARED_KNOBS
from advisor.strategies import find_strategy

T = TypeVar("T")

MOST_PROBLEMS = 10
"""An error is one screen."""
JSON_NAMES = {dict: "an object", str: "a string", int: "a number", float: "a number", bool: "true or false"}
"""What JSON calls what it was parsed to."""
UNTIMED = {"max_seq_length", "eval_batch_size", "num_threads", "group_by_length", "torch_compile"}
"""Fields of an execution plan that say nothing about a step of rows of one length."""
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
        execution: What was named of the execution plan.
        knobs: What was named of the strategy.
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


def read_entries(path: Path) -> list[MeasuredStep]:
    """The list, every entry checked.

    Raises:
        InputError: with every problem.
    """
    try:
        values = read_json(path, what="the list of measured steps")
    except InputError as failure:
        raise InputError(failure.message, fix=EXAMPLE if path.is_file() else failure.fix) from None
    if not isinstance(values, list) or not values:
        held = "an empty one" if values == [] else JSON_NAMES.get(type(values), "something else")
        raise InputError(f"--steps must name a JSON list of measured steps, but {path} holds {held}", fix=EXAMPLE)
    entries, problems = [], []
    for number, value in enumerate(values, start=1):
        try:
            entries.append(_entry(value))
        except InputError as failure:
            found = failure.problems or (failure.message,)
            problems += [f"step {number}: {problem.removeprefix('(top level): ')}" for problem in found]
    if problems:
        raise refused(path, problems, EXAMPLE)
    return entries


def _entry(value: Any) -> MeasuredStep:
    """One entry, its three kinds of keys checked together.

    Raises:
        InputError: with every problem.
    """
    if not isinstance(value, dict):
        raise InputError(f"it must be a JSON object, but it is {JSON_NAMES.get(type(value), 'null')}")
    own = {field.name for field in fields(MeasuredStep)} - {"execution", "knobs"}
    execution_names = {field.name for field in fields(ExecutionPlan)} - UNTIMED
    of_step = {name: item for name, item in value.items() if name in own}
    execution = {name: item for name, item in value.items() if name in execution_names and item is not None}
    knobs = {name: item for name, item in value.items() if name not in {*own, *execution_names} and item is not None}
    execution |= {"dtype": SHORT_DTYPES.get(execution["dtype"], execution["dtype"])} if "dtype" in execution else {}
    problems: list[str] = []
    step = _checked(problems, lambda: from_dict(MeasuredStep, of_step, what="it"))
    named = _checked(problems, lambda: from_dict(ExecutionPlan, execution, what="it"))
    strategy = find_strategy(str(value.get("method")))
    if strategy is not None:
        known = SHARED_KNOBS | {knob.name for knob in fields(strategy.knobs)}
        problems += [f"{name}: unknown field, {item!r:.80}" for name, item in knobs.items() if name not in known]
    if step is None or named is None or problems:
        raise InputError("it is no measured step", problems=problems)
    execution = {name: getattr(named, name) for name in execution}
    return replace(step, execution={**execution, "max_seq_length": step.seq_length}, knobs=knobs)


def _checked(problems: list[str], read: Callable[[], T]) -> T | None:
    """What ``read`` gives, or ``None`` where it adds to the problems."""
    try:
        return read()
    except InputError as failure:
        problems += failure.problems or (failure.message,)
        return None


def refused(path: Path, problems: Sequence[str], fix: str | None) -> InputError:
    """The error that says what is wrong with a list or a run."""
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return InputError(
        f"measured steps must be complete and possible, but those in {path} are not",
        problems=[*problems[:MOST_PROBLEMS], *more],
        fix=fix,
    )
