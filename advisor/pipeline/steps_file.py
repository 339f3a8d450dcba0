"""The JSON list in which users bring measured steps: every key, and every problem at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advisor.core.errors import InputError
from advisor.core.model import Task
from advisor.core.plan import SHORT_DTYPES, Amp, AttentionImplementation, ExecutionPlan, Loss, Optimizer
from advisor.core.serialization import from_dict, read_json
from advisor.core.strategy import StrategyConfig

MOST_PROBLEMS = 10
"""An error is one screen."""
JSON_NAMES = {dict: "an object", str: "a string", int: "a number", float: "a number", bool: "true or false"}
"""What JSON calls what it was parsed to."""
EXAMPLE = (
    'write [{"model": "./llama/config.json", "task": "causal-lm", "method": "lora", "rank": 8, "dtype": "bf16", '
    '"micro_batch_size": 4, "seq_length": 1024, "step_s": 0.61}, ...]; `advisor calibrate --help` names every key'
)


@dataclass(frozen=True)
class MeasuredStep:
    """One entry of a list of measured steps; keys as :class:`StrategyConfig` and :class:`ExecutionPlan` name them.

    What is left out is as ``predict`` has it by default. Data types may be abbreviated as on the command line.

    Attributes:
        model: Folder, ``config.json``, GGUF file, hub id or demo model; a path may be relative to the list's folder.
        method: Registered strategy.
        micro_batch_size: Rows of a forward pass.
        seq_length: Tokens of every row, padding included.
        step_s: Wall clock of one optimizer step, all its micro-batches included; best a median after warming up.
        source: Where the number comes from, for the reader.
    """

    model: str
    method: str
    micro_batch_size: int
    seq_length: int
    step_s: float
    source: str = ""
    task: Task | None = None
    num_labels: int = 2
    rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    target_modules: str | tuple[str, ...] | None = None
    unfrozen_layers: int | None = None
    sparsity: float | None = None
    peft_config: dict[str, Any] | None = None
    max_grad_norm: float | None = None
    gradient_accumulation_steps: int | None = None
    padded: bool | None = None
    dtype: Literal["float32", "bfloat16", "float16", "fp32", "bf16", "fp16"] | None = None
    amp: Amp | None = None
    gradient_checkpointing: bool | None = None
    reentrant_checkpointing: bool | None = None
    attn_implementation: AttentionImplementation | None = None
    optim: Optimizer | None = None
    kbit_upcast: bool | None = None
    zero_grad_set_to_none: bool | None = None
    hold_outputs: bool | None = None
    loss: Loss | None = None
    tf32: bool | None = None

    def __post_init__(self) -> None:
        if not (self.step_s > 0 and math.isfinite(self.step_s)):
            raise ValueError(f"step_s > 0 must hold (seconds), but got {self.step_s}")
        for name in ("seq_length", "micro_batch_size", "gradient_accumulation_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} >= 1 must hold, but got {value}")

    def values(self, record: type[StrategyConfig] | type[ExecutionPlan]) -> dict[str, Any]:
        """The fields that were named and belong to this record."""
        names = [field.name for field in dataclasses.fields(record) if field.name not in ("method", "dtype")]
        found = {name: getattr(self, name) for name in names if getattr(self, name, None) is not None}
        if record is ExecutionPlan:
            found["max_seq_length"] = self.seq_length
            found |= {"dtype": SHORT_DTYPES.get(self.dtype, self.dtype)} if self.dtype is not None else {}
        return found


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
            entries.append(from_dict(MeasuredStep, value, what=f"step {number}"))
        except InputError as failure:
            problems += [f"step {number}: {problem.removeprefix('(top level): ')}" for problem in failure.problems]
    if problems:
        raise refused(path, problems, EXAMPLE)
    return entries


def refused(path: Path, problems: Sequence[str], fix: str | None) -> InputError:
    """The error that says what is wrong with a list or a run."""
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return InputError(
        f"measured steps must be complete and possible, but those in {path} are not",
        problems=[*problems[:MOST_PROBLEMS], *more],
        fix=fix,
    )
